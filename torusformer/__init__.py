"""What every stage shares: errors with a cure, progress, folders, versions.

Bottom of the import order: knows none of the other packages.
"""

from torusformer.errors import (
    ArtifactError,
    BitWidthError,
    InputError,
    LoweringError,
    TorusformerError,
)

__all__ = [
    "ArtifactError",
    "BitWidthError",
    "InputError",
    "LoweringError",
    "TorusformerError",
]
__version__ = "0.1.0"
