"""The process that accepts connections, dispatches them and supervises. It handles no request.

primary.py      the composition root: builds the parts, starts them, stops them in reverse
role.py         one role: its listeners, dispatcher and supervisor
sockets/, ingress/, dispatch/      a connection's way, from the kernel to a worker
processes/, workers/, supervision/, scaling/    a worker's life, from the fork to its exit
lifecycle/      a whole role or cluster: startup, reload, upgrade, shutdown
Imports point down: see the layers in pyproject.toml.
"""
