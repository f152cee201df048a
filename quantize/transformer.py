"""Quantized transformer: what `models.Transformer` computes, in codes, tables and narrow sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torusformer import InputError
from torusformer.models.checkpoint import load_folder, save_folder
from torusformer.models.config import ModelConfig
from torusformer.models.transformer import Transformer
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.fold import folded
from torusformer.quantize.graph import INPUT, Op, graph_of
from torusformer.quantize.parts import QuantFeatures
from torusformer.quantize.quantizers import ActQuant, Grid, constant, quantize_to
from torusformer.quantize.rings import check_rings
from torusformer.quantize.rules import RULES
from torusformer.quantize.site import Site
from torusformer.quantize.walk import Cache, Entry, Rows, seen_tokens

KIND = "torusformer.quant-transformer"


class Call(NamedTuple):
    """One operation: the module called `name`, and the values that it reads."""

    name: str
    op: type[Op]
    sources: tuple[str, ...]


class QuantTransformer(nn.Module):
    """The integer twin of a float transformer; what it computes is what runs encrypted.

    Its modules are those of the float model's graph, folded: called as there, `blocks.0.up`.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: QuantConfig,
        source: Transformer | None = None,
        *,
        longest: int | None = None,
    ) -> None:
        """Starts from the weights of `source`; without it, from untrained ones.

        Sums are bounded for `longest` tokens, those of `model` if there is no longer form of it.
        """
        super().__init__()
        if config.token_input is not None and model.vocabulary is None:
            raise InputError(
                f"token_input is {config.token_input!r}, but inputs are no token ids; leave it out"
            )
        self.model_config, self.config = model, config
        self.longest = longest or model.tokens
        graph = folded(
            graph_of((source or Transformer(model)).eval()),
            config.unfolded,
            embed_table=config.embed_table,
        )
        check_rings(graph, config)
        made: dict[str, nn.Module] = {}
        for op in graph.ops:
            module = RULES[type(op)].build(op, Site(graph, config, made, self.longest))
            if module is not None:
                made[op.name] = module
                _register(self, op.name, module)
        self.calls = tuple(Call(op.name, type(op), op.sources) for op in graph.ops)
        self._made = tuple(made.items())

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, features) in the data's own units, or ids (B, T), to logits."""
        return self.run(x)[0]

    def run(
        self, x: Tensor, cache: Cache | None = None, before: Sequence[Tensor] = ()
    ) -> tuple[Tensor, dict[str, Entry]]:
        """Logits of inputs x behind those of the `cache`, and what is new for the cache.

        `before` are the ids (B, 1) just before x that neighbours are read of.
        """
        first = seen_tokens(cache)
        causal, keep = self.model_config.causal, self._keep(x)
        rows = Rows(first, x.shape[1], causal, keep, before, cache=cache or {})
        values: dict[str, Grid | Tensor] = {}
        modules = dict(self._made)
        for name, op, sources in self.calls:
            read = [values[source] for source in sources]
            call = partial(RULES[op].run, modules.get(name), read, rows.of(name), x)
            block = name.rpartition(".")[0]
            values[name] = self.get_submodule(block)(call) if block else call()
        logits = values[self.calls[-1].name]
        assert isinstance(logits, Tensor)
        return logits, rows.new

    def of_length(self, tokens: int) -> QuantTransformer:
        """The same weights for at most so many tokens: positions beyond are left out."""
        twin = QuantTransformer(
            self.model_config.replace(tokens=tokens), self.config, longest=self.longest
        )
        own = twin.state_dict()
        weights = {
            name: w[: len(own[name])] if name.endswith("positions") else w
            for name, w in self.state_dict().items()
        }
        if fixed := [name for name, w in weights.items() if w.shape != own[name].shape]:
            raise InputError(
                f"{fixed[0]} is of {self.model_config.tokens} tokens and cannot be cut to "
                f"{tokens}; train such a model for one length"
            )
        twin.load_state_dict(weights)
        return twin.eval()

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of those that cache keys and values, in order."""
        return tuple(c.name for c in self.calls if c.op.__name__ == "Attend" and len(c.sources) > 2)

    @property
    def input_quant(self) -> ActQuant | None:
        """The client's grid of features; None where inputs are token ids."""
        module = dict(self._made).get(INPUT)
        return module.quant if isinstance(module, QuantFeatures) else None

    def _keep(self, x: Tensor) -> Grid | None:
        """Codes (B, T): 0 where a token is padding, else 1."""
        padding = self.model_config.padding
        if padding is None:
            return None
        kept = torch.ones(self.model_config.vocabulary or 0)
        kept[padding] = 0.0
        one = torch.tensor(1.0)
        return Grid(quantize_to(constant(kept)[x], one, 2), one, torch.tensor(0.0), one)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        settings = {
            "kind": KIND,
            "model": self.model_config.to_dict(),
            "quant": self.config.to_dict(),
        }
        save_folder(folder, settings, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> QuantTransformer:
        """Inverse of `save_pretrained`, in eval mode."""
        with load_folder(folder, KIND) as (settings, weights):
            model = ModelConfig.from_dict(settings["model"])
            twin = cls(model, QuantConfig.from_dict(settings["quant"]))
            twin.load_state_dict(weights)
        return twin.eval()


class QuantBlock(nn.Module):
    """The modules of one block; called around each of them, so that graphs name it."""

    def forward(self, call: Callable[[], Grid | Tensor]) -> Grid | Tensor:
        """What the call gives."""
        return call()


def _register(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module under its dotted name, in its block."""
    block, _, last = name.rpartition(".")
    if block and block not in dict(root.named_modules()):
        _register(root, block, QuantBlock())
    root.get_submodule(block).add_module(last, module)
