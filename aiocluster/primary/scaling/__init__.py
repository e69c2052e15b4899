"""How many workers a role has, and that new workers get their share of the connections.

It imports `supervision` and what is below.
"""
