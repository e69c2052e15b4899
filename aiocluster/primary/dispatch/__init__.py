"""A load balancer: the backends, their capacity, admission, the policy's choice, the hand-over.

It imports `sockets`.
"""
