"""A whole program that is a cluster.

run.py, checks.py             run(): what is checked, forked and started, in which order
runner.py, signals.py         the main coroutine, from the start to the exit code
stop_watchdog.py              ends a stop that is blocked
again.py, upgrade_exec.py     how zygotes, and the whole program, are started again
script.py, lone_script.py     a script that calls aiocluster.run or web.run_app
single_process.py             run() on other systems than Linux, in one process
output.py                     what the program prints and logs, even if nothing reads it
"""
