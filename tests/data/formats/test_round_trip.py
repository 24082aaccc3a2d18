"""Every format that is written gives back what it was given, bit for bit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.formats.episodes import assert_equal_episodes, made_of, make
from worldline.data.buffer import ReplayBuffer
from worldline.data.formats.catalog import FORMATS, detect_format, module_of

WRITTEN = [name for name, known in FORMATS.items() if known.is_written]


@pytest.fixture(autouse=True, scope="module")
def _unflushed() -> Iterator[None]:
    """Waiting for the disk takes most of the time, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_round_trip(name: str, data: st.DataObject) -> None:
    drawn: dict[str, Any] = data.draw(made_of(plain=True if name == "d4rl" else None))
    episodes, told = make(**drawn)
    buffer = ReplayBuffer.from_episodes(episodes, **told)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        module_of(name).write(path, buffer._episode_store(), buffer.spec, meta=[episode.meta for episode in episodes])
        assert detect_format(path) == name
        assert_equal_episodes(ReplayBuffer.load(path), buffer)
