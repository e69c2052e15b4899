"""The process that imports the app once and forks workers.

It has one thread and no loop, so that a fork copies nothing that could be locked or half
done. Once the import is over no code of the user's runs in it, but for hooks that a module
has put around forks; one that hangs there is killed by the primary, and replaced.
"""
