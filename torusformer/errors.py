"""Errors a user can cause; each message names the place, the measure, the limit and the cure."""

from __future__ import annotations


class TorusformerError(ValueError):
    """Base of every error that is the user's to mend. The command line exits with 2 on it."""


class InputError(TorusformerError):
    """A value handed to the program: wrong shape, dtype, range, or not a number."""


class LoweringError(TorusformerError):
    """A QONNX graph that cannot become an integer program."""


class BitWidthError(TorusformerError):
    """A value that needs more bits than a bootstrap can take."""


class ArtifactError(TorusformerError):
    """A file or folder that is missing, truncated, foreign, or of another version."""
