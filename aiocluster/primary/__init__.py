"""The process that accepts, dispatches and supervises. No request is ever handled here.

listener.py    accepts in batches; pauses and resumes
dispatcher.py  gives each connection to a worker the policy chooses     pure
handle.py      one worker, seen from here
lifecycle.py   the phases of a worker                                   pure
spawner.py     the one door to processes: the zygote, forks, exits
supervisor.py  keeps every slot filled; starts and stops all workers
restarts.py    may a dead worker start again, and when?                 pure
bus.py         who hears which event
reporting.py   snapshots, for subscribers here and in the workers
"""
