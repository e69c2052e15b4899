"""The wires between the processes: messages, their framing, and the sockets that carry them.

messages.py, framing.py             every message and its sender; messages to bytes and back
channel.py, turns.py, loopback.py   a stream of messages, and its share of a loop's turn
handoff.py, packets.py              accepted connections, sent as file descriptors
scoreboard.py                       counters in shared memory: a worker writes, the primary reads
handover.py                         the state that a program hands to the next one
accept_queue.py, accept_backoff.py  the backlog of a listening socket; failures to accept
signals.py, forks.py, child_ends.py, hangup.py, stacks.py    signals, forks and ends of processes
"""
