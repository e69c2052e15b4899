"""The command line.

`cli.py` has the commands, `manual.py` shows the manual. No other package imports this one: a
program can do in Python whatever a person can do here.
"""
