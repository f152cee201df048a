"""Frozen configurations: plain settings in, checked ones or one sentence with the cure out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from torusformer.errors import InputError


class Config(BaseModel):
    """Base of all configurations: frozen, every field checked, unknown ones refused.

    Raises `InputError` with one sentence where a value is not what its field takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(self._explained(error)) from None

    def __hash__(self) -> int:
        """Of what it says: fields may be mappings."""
        return hash((type(self), self.model_dump_json()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; values may be those of JSON, lists for tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A checked copy with some fields changed."""
        return type(self)(**{**dict(self), **changes})

    @classmethod
    def _explained(cls, error: ValidationError) -> str:
        first: Mapping[str, Any] = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        match first["type"]:
            case "extra_forbidden":
                return f"unknown setting {name!r}; known: {', '.join(cls.model_fields)}"
            case "missing":
                return f"setting {name!r} is missing; give it"
            case "value_error":
                cause = str(first["ctx"]["error"])
                return cause if not name else f"{name} is {first['input']!r}; {cause}"
        return f"{name} is {first['input']!r}; {_cure(first)}"


def _cure(error: Mapping[str, Any]) -> str:
    """What to give, from what pydantic says."""
    bounds = error.get("ctx", {})
    if "expected" in bounds:
        choices = str(bounds["expected"]).replace("'", "").replace(" or ", ", ")
        return f"choose one of {choices}"
    if "ge" in bounds:
        return f"give at least {bounds['ge']}"
    if "gt" in bounds:
        return f"give more than {bounds['gt']}"
    if "le" in bounds or "lt" in bounds:
        return f"give at most {bounds.get('le', bounds.get('lt'))}"
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    wanted = next((what for kind, what in kinds.items() if error["type"].startswith(kind)), "")
    return f"give {wanted}" if wanted else error["msg"].lower()
