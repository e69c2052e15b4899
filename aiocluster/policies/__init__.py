"""Policies: each chooses the worker for a new connection, and owns no worker or connection.

base.py                               what a policy is, and how to write one. Start reading here
round_robin.py, weighted.py           each worker in turn, or some more often
least_connections.py, least_loaded.py the worker with the least to do
sticky.py                             the same worker for the same client
client_network.py, request_head.py    what counts as the same client
named.py, fallback.py                 a policy by its name; the wrapper of a policy that may fail
"""
