"""Keeps every slot filled with a healthy worker: restarts, backs off, recycles, kills what hangs.

It imports `workers` and what is below.
"""
