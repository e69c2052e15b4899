"""The settings of a cluster and what they mean. Nearly all functions here are pure.

settings.py, setting_texts.py, allowed.py    the record of all settings, as typed and described
roles.py, special.py, run_app.py             settings that are more than a number or a name
addresses.py, worker_count.py, autoscale.py  what `bind`, `workers` and `autoscale` may say
cpus.py, cgroups.py, kinds.py                the CPUs of the machine; the kinds of apps
target.py, script.py, script_file.py         the app: an import string, or a script
environment.py, elsewhere.py                 the environment; systems other than Linux
"""
