"""What tests train that then run it encrypted: keys of four bits cost half of those of five."""

from torusformer.models import ModelConfig
from torusformer.pipelines.settings import Settings
from torusformer.quantize import QuantConfig, TrainConfig

TINIEST = Settings(
    "tiniest",
    ModelConfig.from_name("tiny").replace(dim=4, mlp_dim=4),
    QuantConfig.from_name("tiny").replace(
        sum_bit_width=4,
        statistic_bit_width=4,
        accumulator_bit_width=4,
        stream_accumulator_bit_width=4,
    ),
    TrainConfig.from_name("tiny").replace(float_epochs=1, qat_epochs=1),
)
