"""Processes that train together, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from training.rank_pool import RankPool


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Four processes that are started when a test first asks for them."""
    pool = RankPool(4)
    yield pool
    pool.close()
