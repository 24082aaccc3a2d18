from __future__ import annotations

import subprocess
import sys

import pytest

import worldline


def test_every_public_name_is_there():
    assert len(worldline.__all__) <= 15
    for name in worldline.__all__:
        assert getattr(worldline, name).__name__ == name
    assert set(worldline.__all__) <= set(dir(worldline))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'worldline' has no attribute 'Bach'"):
        worldline.Bach  # noqa: B018


@pytest.mark.parametrize(
    "module", ["worldline", "worldline.batch", "worldline.config", "worldline.registry", "worldline.create"]
)
def test_torch_is_not_loaded_until_it_is_needed(module: str):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
