"""How the processes talk: what they say, how it is framed, and what carries it.

messages.py    every message, and who may send it                        pure
framing.py     messages to bytes and back                                pure
turns.py       what all channels may use of one turn of their loop
estate.py      what a program leaves to the one that takes its place     pure
channel.py     a stream of messages between the primary and one worker
loopback.py    both ends of a channel in one process, elsewhere than on Linux
accepting.py   what everybody must know who accepts connections
trouble.py     what goes wrong at that: told once, and tried again
handoff.py     accepted connections, as file descriptors, to one worker
scoreboard.py  counters that a worker writes and the primary reads, in shared memory
signals.py     those that all processes get, and only the primary obeys
forks.py       what no process may have that the program's or the app's code forks
child_ends.py  the ends of child processes, heard of without a descriptor
stacks.py      the stacks of a worker, on request: a signal, and a file in memory
"""
