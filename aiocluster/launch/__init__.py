"""New interpreters that run this program again, or import only the app.

The primary uses this package, which starts them, and so do the processes that it starts.
"""
