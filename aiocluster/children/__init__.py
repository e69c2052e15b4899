"""The child processes: zygotes, and the workers that they fork.

start.py      the three ways in which a zygote starts
offspring.py  the life of a process that is first a zygote, and may become a worker
app.py        the app in each form in which it is given: how it is loaded, and from where
call.py       a call of aiohttp's run_app: its settings, and a trial that does not serve
imported.py   what an import gave, and what the import by a single worker leaves in it
"""
