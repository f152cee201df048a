"""Float transformers and their data: the first stage of the pipeline."""

from models.checkpoint import read_settings
from models.config import TransformerConfig
from models.tasks import TASKS, Task, load_task, to_images, to_tokens
from models.transformer import Transformer

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
