"""Listening sockets: bind or inherit them, accept in batches, close them without a reset.

This package imports nothing else of `primary`.
"""
