"""Tests of `worldline.memory`: what is kept, and where it is left alone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from worldline.memory import keep_freed_memory

_COUNT_FAULTS = """
import resource, sys
import numpy as np
from worldline.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use():
    for _ in range(20):
        np.ones(1 << 21)  # 16 MiB, given back at once
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(argument: str) -> int:
    command = [sys.executable, "-c", _COUNT_FAULTS, argument]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again() -> None:
    # Without it, every array of 16 MiB is 4,096 new pages (or 8 huge ones).
    assert _faults("keep") < 20


def test_other_devices_are_left_alone() -> None:
    assert not keep_freed_memory("cuda")
