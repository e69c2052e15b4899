"""The processes that serve. A worker owns its connections and knows nothing of the others.

alone.py       a worker in the program's own process, elsewhere than on Linux
bootstrap.py   from the fork to a running loop, and from there to an exit code
runtime.py     the worker's life: start the app, take connections, report, drain
exits.py       what it means that the app's own code ends its process
ending.py      its last tasks, its threads, and Python's exit hooks
loggers.py     aiohttp's loggers and ours, when the app sets up its logging
context.py     the worker, as the user's code sees it
server.py      a server that the user's code starts; the primary has its sockets
site.py        the same for a second aiohttp server
intake.py      the worker's side of its handoff: connections come, and some go back
wires.py       what joins it to the primary: has the app closed or replaced any of it?
acceptor.py    lets connections in by itself, with the policy `shared`: when, and how many
gate.py        at one listening socket, by uvloop or in Python
waking.py      how it is woken for that socket, and no other worker
pace.py        how quickly its loop turns
standing.py    whether it is ready, told to stop, and who wants to hear of that
leading.py     whether it leads its role
mail.py        what the user's code sends to the primary and hears from it
vitals.py      the loop's heartbeat and lag
room.py        how many more connections it has room for, and who waits for that
reports.py     what it measures of itself, sent to the primary
stacks.py      what its threads and tasks are doing, when the primary asks
http/          what serves an aiohttp app
services/      what else a worker runs: a job, servers of the user's own
"""
