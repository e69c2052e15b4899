"""Harm done to a cluster under load, and every failure that a client saw, counted by kind.

    load.py        the load client, a process of its own: python -m tests.chaos.load '{...}'
    modes.py       how it asks: one coroutine a mode
    connection.py  its HTTP, by hand on a bare socket; websocket.py: its WebSockets
    tally.py       what it counts
    content.py     bytes that both sides can make from a token
    app.py         the app it runs against
    client.py      starts the load client, lets it work, reads what it saw
    scene.py       a program under load, its processes, and the dice of the run
    harm.py        what may be done to it, one action after the other, chosen by the dice
    census.py      what it has afterwards: processes, descriptors, memory

A run is decided by its seed, which the test session prints at its end; the same seed chooses the
same harm and sends the same requests, though the machine may interleave them otherwise.

    AIOCLUSTER_CHAOS_SEED=7 pytest tests/chaos     that run again
    AIOCLUSTER_CHAOS_SCALE=20 pytest tests/chaos   a soak: twenty times the rounds and requests
    AIOCLUSTER_CHAOS_SCALE=100 pytest -s tests/chaos/soak.py   each mode alone, ten reloads
"""
