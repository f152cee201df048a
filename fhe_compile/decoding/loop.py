"""Tokens in, one after the other, answers out: the loop by which a decoder writes.

Whoever writes brings its own `run`, which computes a function of the decoder by name on whatever
values it has: integers in the clear, ciphertexts on a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

from torusformer.fhe_compile.decoding.names import (
    LOGITS,
    NEXT,
    NOISE,
    TOKEN,
    absorb_name,
    step_name,
)

V = TypeVar("V")
A = TypeVar("A")
C = TypeVar("C")
# Name of a function and values by name, those that it takes among them, to its outputs by name.
Run = Callable[[str, Mapping[str, V]], Mapping[str, V]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Cache(Generic[V]):
    """What a decoder keeps of the first `position` tokens: keys and values, by name.

    `token` is the one that comes next, where it is known. A cache is frozen: a step makes a new
    one, so that whatever goes wrong in it, the old one is whole.
    """

    position: int = 0
    entries: Mapping[str, V] = field(default_factory=dict)
    token: V | None = None

    def absorb(self, run: Run[V], prompt: Sequence[V]) -> Self:
        """With all tokens of a prompt but the last, which comes next."""
        cache = self
        for token in prompt[:-1]:
            cache = cache._behind(run(absorb_name(cache.position), cache._values(token)))
        return replace(cache, token=prompt[-1])

    def step(self, run: Run[V], noise: V | None = None) -> tuple[Mapping[str, V], Self]:
        """All that a step gives for the token that comes next, and the cache with that token."""
        values = self._values(self.token)
        if noise is not None:
            values[NOISE] = noise
        given = run(step_name(self.position), values)
        return given, self._behind(given)

    def _values(self, token: V | None) -> dict[str, V]:
        return {**self.entries, **({} if token is None else {TOKEN: token})}

    def _behind(self, given: Mapping[str, V]) -> Self:
        new = {name: value for name, value in given.items() if name not in (LOGITS, NEXT)}
        entries = {**self.entries, **new}
        return replace(self, position=self.position + 1, entries=entries, token=given.get(NEXT))


def write(step: Callable[[C, V], tuple[A, C]], cache: C, noises: Iterable[V]) -> Iterator[A]:
    """The answer of every step from a cache on, as soon as it is there; one step a noise."""
    for noise in noises:
        answer, cache = step(cache, noise)
        yield answer
