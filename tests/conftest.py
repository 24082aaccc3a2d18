"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# Examples are timed by the clock, and the machines that run the checks are shared.
settings.register_profile("worldline", deadline=None)
settings.load_profile("worldline")
