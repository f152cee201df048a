"""Checkpoints of other libraries in, our float transformer out."""

from torusformer.models.foreign.convert import Imported, import_checkpoint
from torusformer.models.foreign.reading import Wishes

__all__ = ["Imported", "Wishes", "import_checkpoint"]
