"""The operators of an integer program, a file a kind, each one class with all its rules."""
