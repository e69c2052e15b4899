"""Which worker gets the next connection. A policy chooses; it owns nothing.

base.py                what a policy is, and how to write one. Start reading here
round_robin.py         each in turn
weighted.py            each in turn, some more often
least_connections.py   the one with the fewest open connections
least_loaded.py        of two at random, the one with less to do
sticky.py              the same client to the same worker
client_network.py      what counts as the same client, by its address
request_head.py        what the beginning of a request says about whose it is
named.py               from what a user wrote to a policy
guarded.py             one that a user wrote, which may fail
"""
