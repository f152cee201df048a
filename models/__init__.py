"""Float transformers and their data: the first stage of the pipeline."""

from torusformer.models.checkpoint import read_settings
from torusformer.models.config import TransformerConfig
from torusformer.models.tasks import TASKS, Task, load_task, to_images, to_tokens
from torusformer.models.transformer import Transformer

__all__ = [
    "TASKS",
    "Task",
    "Transformer",
    "TransformerConfig",
    "load_task",
    "read_settings",
    "to_images",
    "to_tokens",
]
