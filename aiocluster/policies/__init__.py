"""Which worker gets the next connection. A policy chooses; it owns nothing.

base.py                               what a policy is, and how to write one. Start reading here
round_robin.py, weighted.py           each worker in turn, or some more often
least_connections.py, least_loaded.py the worker with the least to do
sticky.py                             the same client to the same worker
client_network.py, request_head.py    what counts as the same client
named.py, fallback.py                 a policy by its name; a user's policy, which may fail
"""
