"""The program that `aiocluster.run` makes of a cluster.

run.py, checks.py             run(): its checks, forks and starts, and their order
runner.py, signals.py         the main coroutine, from the start to the exit code
stop_watchdog.py              ends a stop that is blocked
again.py, upgrade_exec.py     how zygotes, and the whole program, are started again
script.py, lone_script.py     a script that calls aiocluster.run or web.run_app
single_process.py             run() on other systems than Linux, in one process
output.py                     the program's output and log, even if no process reads them
"""
