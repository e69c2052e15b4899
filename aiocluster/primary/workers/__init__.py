"""One worker as the primary sees it, and the pool of a role's workers, from fork to exit.

It imports `ingress`, `dispatch`, `processes` and `sockets`.
"""
