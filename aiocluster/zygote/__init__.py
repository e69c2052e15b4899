"""The process that imports the app once and forks workers.

It has one thread and no loop, so that a fork copies nothing that could be locked or half
done; no code of the user's runs in it once the import is over, so nothing can block it.
"""
