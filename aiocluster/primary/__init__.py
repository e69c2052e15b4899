"""The process that accepts, dispatches and supervises. No request is ever handled here.

How all of it begins and ends:

parts.py          built together, started in order, stopped in reverse
origin.py         what they start from
farewell.py       what a stop does before any worker is told to go

How a connection goes:

listeners.py      all listening sockets, as one
listener.py       one of them: accepts in batches; pauses and resumes
binding.py        from an address to bound sockets
dispatcher.py     gives each connection to a worker the policy chooses     pure
outbox.py         the sending side of one worker's handoff
returns.py        what comes back there, for others

How a worker lives:

supervisor.py     keeps every slot filled; starts and stops all workers
slot.py           one place for a worker: who comes when this one goes
hiring.py         what a new worker needs: wires, row, handle, process
handle.py         one worker, seen from here
lifecycle.py      the phases of a worker                                   pure
exits.py          what its end means                                       pure
restarts.py       may a dead worker start again, and when?                 pure
exit_log.py       what the log says of its end
watchdog.py       what a blocked one holds up goes to others; one that hangs goes
stalls.py         how long a loop has not turned, and what that calls for   pure

When the code is replaced:

generations.py    each is one import of the code, and the workers of it
reload.py         a new generation in the place of the old, slot by slot
probation.py      whether the new one lasts

When the program is replaced:

upgrade.py        tries the next one out, waits for a quiet moment, lets it take over
trial.py          the next one, as a child that only checks whether it would start
heritage.py       what the parts leave to those of the next one

Processes:

spawner.py        the one door to new ones: keeps a zygote alive
zygote_handle.py  one zygote, seen from here
interpreter.py    how a new interpreter starts that becomes one
process.py        a worker's process: signalled, watched, asked how it ended
orphans.py        those whose parent has died
fd_limit.py       how many descriptors they may have
scheduling.py     whom the kernel lets run first

What is heard:

bus.py            who hears which event
reporting.py      snapshots, for subscribers here and in the workers
tasks.py          tasks of ours: none may end unseen
"""
