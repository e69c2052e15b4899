"""A whole program that is a cluster.

run.py        run(): what is forked and started, in which order
checks.py     what is checked before anything starts
again.py      how the zygotes of the program start again
script.py     a script that calls aiocluster.run: the command runs it as the program
life.py       from the start to the exit code
signals.py    which signals mean what
guard.py      ends what was told to stop and is blocked
succession.py the next program in the same process: a trial, then an exec
single_process.py  run() elsewhere than on Linux: the cluster is this one process
lone_script.py  a script there: its call of run_app serves in this process
output.py     what it prints and logs, also where nobody reads it
"""
