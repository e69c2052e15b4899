"""From an accepted connection to a dispatched one.

This package finds out the client (PROXY header, inspected request) and the policy of each
connection, or sheds it with a 503. It imports `dispatch` and `sockets`.
"""
