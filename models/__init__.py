"""Float transformers and their data: the first stage of the pipeline."""

from torusformer.models.checkpoint import read_settings
from torusformer.models.config import ModelConfig
from torusformer.models.presets import preset_names
from torusformer.models.samples import to_images, to_tokens
from torusformer.models.task import Task
from torusformer.models.tasks import TASKS, load_task
from torusformer.models.transformer import Transformer

__all__ = [
    "TASKS",
    "ModelConfig",
    "Task",
    "Transformer",
    "load_task",
    "preset_names",
    "read_settings",
    "to_images",
    "to_tokens",
]
