"""What happens to a whole role or cluster: startup, reload, upgrade, shutdown.

It imports `supervision` and what is below.
"""
