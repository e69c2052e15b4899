"""Keeps every slot filled with a healthy worker: restarts, backs off, recycles, kills at a hang.

It imports `workers` and what is below.
"""
