"""What a person types and sees.

`cli.py` is the command line. Nothing below imports this folder: whatever can be done from here
can be done from Python too.
"""
