"""The process that imports the app once and forks workers.

The zygote has one thread and no loop, so a fork copies nothing that is locked or half done. After
the import it runs no code of the user's, except for hooks that a module has put around forks. If
such a hook hangs, the primary kills and replaces the zygote.
"""
