"""Concrete, imported without its deprecation warning in the user's sight."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():  # it declares its namespace with pkg_resources
    warnings.simplefilter("ignore")
    from concrete import fhe

__all__ = ["fhe"]
