"""The processes that serve. A worker owns its connections and does not know other workers.

bootstrap.py    a worker from the fork to a running loop, and from there to an exit code
runtime.py      the worker's life: start the app, take connections, report, drain
api/            what the user's code sees of its worker
accept/         how connections get in: by the handoff, or accepted here
services/       what a worker runs besides aiohttp: a job, servers of the user's own
http/           aiohttp: its app served, metered, drained; its connections migrated
"""
