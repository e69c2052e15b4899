"""What a user may set, and what it means.

`settings.py` is the record of all settings and the only way to make one from loose values;
`addresses.py` reads what `bind` may say; `allowed.py` puts a setting's type into words, for
errors and for `--help`; `environment.py` says what a process's environment may be;
`autoscale.py` is the record of how a role's number of workers follows its load. These five
are pure. `cpus.py` reads from the system how many CPUs
this process may use, for `workers="auto"`; `target.py` finds the app that an import string
names.
"""
