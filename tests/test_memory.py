"""Tests of `worldline.memory`: what is kept, and where it is left alone."""

from __future__ import annotations

import ctypes
import mmap
import platform
import subprocess
import sys
import types

import pytest
import torch

from worldline.memory import keep_freed_memory, memory_in_use

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


@pytest.mark.parametrize(
    ("system", "library"), [("Linux", "musl"), ("Linux", ""), ("Darwin", ""), ("Windows", "")], ids="-".join
)
def test_other_c_libraries_are_left_alone(system: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: object) -> None:
        raise AssertionError("the C library was asked")

    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert not keep_freed_memory()


MIB = 1 << 20


@pytest.mark.parametrize(
    ("largest", "accepted"),
    [
        (2048 * MIB, [(-3, 1024 * MIB), (-1, 2048 * MIB - 1)]),
        (32 * MIB, [(-3, 32 * MIB), (-1, 2048 * MIB - 1)]),  # an older glibc
        (16 * MIB, []),
    ],
)
def test_thresholds_are_as_high_as_glibc_takes_them(
    largest: int, accepted: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        if parameter == -3 and value > largest:
            return 0
        calls.append((parameter, value))
        return 1

    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory() == bool(accepted)
    assert calls == accepted


@pytest.mark.skipif(platform.system() != "Linux", reason="other systems tell less")
def test_the_resident_set_grows_with_what_is_written() -> None:
    before = memory_in_use()["memory_mb"]
    with mmap.mmap(-1, 100_000_000) as held:  # pages of its own, whatever the process has kept of freed memory
        held.write(b"x" * 100_000_000)
        grown = memory_in_use()["memory_mb"] - before
        held.seek(0)
    assert 90 < grown < 220  # with the bytes that were written, if these were not yet given back


def test_the_peak_of_a_cuda_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {"cuda:1": 5_000_000}.get)
    assert memory_in_use("cuda:1")["device_memory_mb"] == 5.0


def test_a_system_that_tells_nothing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert memory_in_use() == {}
