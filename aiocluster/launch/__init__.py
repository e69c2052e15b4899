"""New interpreters: how this program, or an app alone, is started once more.

Used by the primary, which starts them, and by the processes that are started so.
"""
