"""The process that accepts, dispatches and supervises. No request is ever handled here.

How all of it begins and ends:

parts.py          all parts: built together, started in order, stopped in reverse
role.py           those of one role; each role has its own
commons.py        what the roles share
origin.py         what they start from
farewell.py       what a stop does before any worker is told to go

How a connection goes:

doors.py          all ways in
door.py           one of them: listeners that share a policy
listeners.py      all listening sockets, as one
listener.py       one of them: accepts in batches; pauses and resumes
backlog.py        how one closes without a reset for those who are just connecting
inherited.py      those that were handed down to us (LISTEN_FDS)
binding.py        from addresses to bound sockets: all of them, or none
choosing.py       which policy holds for which address
servers.py        those that workers open for servers of their own
numbers.py        what their listeners are called                          pure
peeking.py        whose each one is, by what it shows first
holding.py        how many are held until that is known
peers.py          from where it comes
descriptor.py     what is done to one without a socket object
proxy_protocol.py who its client is, as a proxy says                       pure
sharing.py        which workers accept some by themselves                  pure
dispatcher.py     gives each connection to a worker the policy chooses     pure
places.py         how many may be let in that come for the first time      pure
outbox.py         the sending side of one worker's handoff
room.py           how many more it may be given
returns.py        what comes back there, for others
refusal.py        what a client meets where nobody has room, if it shall not wait

How a worker lives:

supervisor.py     decides who is started, replaced and stopped
first_start.py    which of the first came up, and if none did, why
slots.py          all places for workers
slot.py           one of them: who comes when its worker goes
workers.py        all workers, from their fork to their end
pinning.py        which CPU each runs on, if they are pinned                 pure
hiring.py         what a new one needs: wires, row, handle, process
handle.py         one worker, seen from here
deadline.py       when it is killed at the latest
ending.py         why it goes, as far as we know
lifecycle.py      the phases of a worker                                   pure
exits.py          what its end means                                       pure
restarts.py       may a dead worker start again, and when?                 pure
breaker.py        a role that keeps failing is degraded
upkeep.py         who has grown too large or too old
recycling.py      who is due is replaced in its turn
exit_log.py       what the log says of its end
oom_kills.py      did the kernel end it for want of memory?
watchdog.py       what a blocked one holds up goes to others; one that hangs goes
figures.py        what a worker counts: can it be true?
stalls.py         how long a loop has not turned, and what that calls for   pure

How many workers there are, who leads, and who has which connection:

sizing.py         how many, by order or by load
staffing.py       opens and closes slots, one order after the other
autoscaler.py     has a role's number follow its load
scaling.py        how many a role should have                              pure
load.py           what its workers are at                                  pure
balance.py        who gives connections back, for others                   pure
balancing.py      asks them to
leadership.py     who leads a role                                         pure

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
this_program.py   this program once more, or why that is not possible
command_line.py   what an interpreter was started with                      pure
pickled_app.py    one that needs no program: it imports or unpickles the app
links.py          folders behind a link that a deploy turns                 pure
stderr_tail.py    what it said at last
fd_needs.py       how many descriptors a cluster needs to serve             pure
process.py        a worker's process: signalled, watched, asked how it ended
orphans.py        those whose parent has died
scheduling.py     whom the kernel lets run first

What is heard:

bus.py            who hears which event
reporting.py      snapshots, for subscribers here and in the workers
tasks.py          tasks of ours: none may end unseen
"""
