from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("module", ["", ".training", ".training.callbacks", ".training.data"])
def test_worldloom_is_worldflux(module: str):
    """One adapter under two names: not a copy that could come to differ."""
    flux, loom = importlib.import_module(f"worldflux{module}"), importlib.import_module(f"worldloom{module}")
    assert loom.__all__ == flux.__all__
    for name in flux.__all__:
        assert getattr(loom, name) is getattr(flux, name)
