"""Checkpoints of other libraries in, our float transformer out."""

from torusformer.models.foreign.convert import Imported, import_checkpoint

__all__ = ["Imported", "import_checkpoint"]
