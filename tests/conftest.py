"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from training.rank_pool import RankPool

# Examples are timed by the clock, and the machines that run the checks are shared.
settings.register_profile("worldline", deadline=None)
settings.load_profile("worldline")

# A shell that runs the tests in the background has them, and every process that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Processes that train together, started when a test first asks for them."""
    pool = RankPool()
    yield pool
    pool.close()
