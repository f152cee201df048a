"""The integer program: its nodes, proved ranges, interpreter, and file."""
