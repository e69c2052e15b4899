"""What a user may set, and what it means.

settings.py      the record of all settings, and the only way to make one from loose values   pure
setting_texts.py settings as they are typed and described                                     pure
worker_count.py  what `workers` means, and how many are too many                              pure
roles.py         roles: each with its own app and settings                                    pure
special.py       the settings that are more than a number or a name                           pure
addresses.py     what `bind` may say                                                          pure
environment.py   what a process's environment may be                                          pure
autoscale.py     how a role's number of workers follows its load                              pure
allowed.py       a setting's type in words, for errors and for `--help`                       pure
elsewhere.py     what differs where the system is not Linux                                    pure
cpus.py          how many CPUs this process may use, for `workers="auto"`
target.py        the object that an import string names
"""
