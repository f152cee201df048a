"""Compiled circuits in, the files that client and server get out, and back."""
