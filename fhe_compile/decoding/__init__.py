"""The programs of a decoder's positions, and how the next token is picked."""
