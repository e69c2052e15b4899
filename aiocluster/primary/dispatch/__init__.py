"""A load balancer: backends, their capacity, admission, the policy's choice, the handing over.

This package imports `sockets`.
"""
