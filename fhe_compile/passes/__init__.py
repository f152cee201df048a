"""Rewrites of an integer program, one file each: same inputs, same outputs, same integers."""
