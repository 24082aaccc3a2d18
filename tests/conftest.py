"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from training.rank_pool import RankPool

# Examples are timed by the clock, and the machines that run the checks are shared.
settings.register_profile("worldline", deadline=None)
settings.load_profile("worldline")


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Processes that train together, started when a test first asks for them."""
    pool = RankPool()
    yield pool
    pool.close()
