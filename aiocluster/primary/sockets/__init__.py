"""Listening sockets: bind or inherit them, accept in batches, close them without a reset.

It imports nothing else of `primary`.
"""
