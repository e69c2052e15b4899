"""aiocluster measured beside its peers: one question a file, all sides in one run.

    python -m benchmarks               every question, then every target: met or missed
    python -m benchmarks.request_cpu   one of them; --quick for a first look, --rounds N

    request_cpu.py      what does one request cost, all processes counted?
    primary_cpu.py      what does one connection cost the primary?
    evenness.py         how evenly do connections spread over the workers?
    replace.py          how long until a killed worker's replacement answers?
    reload_loss.py      how many requests do reloads and kills cost, and how long do they last?
    primary_memory.py   does the primary's memory stay flat?
    channel_echo.py     how fast is the channel between primary and worker?
    balance.py          what do throughput and p99 owe to how connections are spread?
    slow_requests.py    how long do quick requests wait for slow ones?
    full_cost.py        what does it cost that all workers are full and clients wait?
    policy_cost.py      what does it cost to choose the worker for one connection?
    dispatch_cost.py    and to give it to that one, where limits must be kept?

    sides.py            how each side is started, with which options
    apps/               what the sides serve; peers/: what we had to write to compare with
    load.py             the load client, a process of its own
    timed_load.py       another, which keeps the time of each answer
    harness.py          starts a side, waits for it, loads it, always ends it
    processes.py        CPU time and memory of a process tree
    report.py plot.py   tables, targets, JSON and PNG: to results/, which git ignores

A machine that others share is noisy, so no number stands alone: the sides take turns in one run,
a fixed number of requests is charged with CPU time instead of wall time, and what counts is the
median of the ratios of the rounds. Peers: pip install gunicorn aiohttp uvicorn granian uvloop,
apt install nodejs gcc; a side that is not installed is left out, with a note. Plots: pip install
matplotlib.
"""
