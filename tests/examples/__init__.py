"""Each example is run, as its docstring says, by a test."""
