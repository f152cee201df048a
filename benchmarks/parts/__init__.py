"""Every part, in the order of measurement: a part stands behind those it needs."""

import torusformer.pipelines.quiet_torch  # noqa: F401  before anything of quantize
from benchmarks.parts.all_tokens import ALL_TOKENS, ENCODER_BLOCK
from benchmarks.parts.attention_only import ATTENTION_ONLY
from benchmarks.parts.baselines import BASELINES
from benchmarks.parts.best_digits import BEST_DIGITS
from benchmarks.parts.digits import DIGITS_FAST, DIGITS_SMALL, DIGITS_STANDARD
from benchmarks.parts.foreign import FOREIGN
from benchmarks.parts.generation import GENERATION
from benchmarks.parts.growth import GROWTH
from benchmarks.parts.modes import FAST_MODE, PARALLEL
from benchmarks.parts.names import NAMES
from benchmarks.parts.passes import PASSES
from benchmarks.parts.prices import EFFICIENCY, PLAN_ERROR, PRICES
from benchmarks.parts.same_block import DIRECT, SAME_BLOCK
from benchmarks.parts.scaling import SCALING
from benchmarks.parts.sentences import SENTENCES
from benchmarks.parts.table_attention import TABLE_ATTENTION
from benchmarks.parts.usps import USPS
from benchmarks.parts.wrap_oracle import WRAP_ORACLE

PARTS = (
    PRICES,
    DIGITS_FAST,
    DIGITS_SMALL,
    WRAP_ORACLE,
    EFFICIENCY,
    FAST_MODE,
    PARALLEL,
    SAME_BLOCK,
    ENCODER_BLOCK,
    ALL_TOKENS,
    DIRECT,
    ATTENTION_ONLY,
    SCALING,
    PASSES,
    GROWTH,
    GENERATION,
    NAMES,
    USPS,
    SENTENCES,
    DIGITS_STANDARD,
    BASELINES,
    PLAN_ERROR,
    TABLE_ATTENTION,
    BEST_DIGITS,
    FOREIGN,
)
