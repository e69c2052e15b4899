"""From an accepted connection to a dispatched one.

Which client it is (PROXY header, inspected request), which policy applies, or a 503.
It imports `dispatch` and `sockets`.
"""
