"""Hostile files and messages, drawn from a seed."""
