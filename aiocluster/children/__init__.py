"""The child processes: zygotes, and the workers that they fork.

start.py      the three ways in which a zygote starts
offspring.py  the life of a process that is first a zygote, and may become a worker
app.py        the forms of an app: how each is loaded, and from which folder
call.py       a call of aiohttp's run_app: its settings, and a trial that does not serve
imported.py   the result of an import, and the leftovers of an import by a single worker
"""
