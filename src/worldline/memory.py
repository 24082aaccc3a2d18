"""The memory of the process: how much it has, and how the C library keeps what tensors gave back."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

# Constants of glibc's malloc.h: the size of the heap's free end beyond which it goes back to the system, and the size
# from which a block is mapped (and unmapped) by itself.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES, _MAP_BYTES = 2**31 - 1, 1 << 30
_OLD_MAP_BYTES = 32 << 20  # the most that older releases accept (HEAP_MAX_SIZE / 2)


def keep_freed_memory(device: str = "cpu") -> bool:
    """Let the process keep the memory of freed tensors for the next ones, where the C library can be told so.

    A training step allocates and frees the same tensors of some megabytes again and again. glibc returns each to the
    system, which hands out new pages and clears them: in a small model on a CPU that can take longer than the
    arithmetic. The process keeps up to 2 GiB this way, which it has needed before anyhow.

    Args:
        device: The type of device that the tensors are on.

    Returns:
        Whether it was done: only on a CPU, on Linux with glibc. Other C libraries are left alone.
    """
    if device != "cpu" or platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Either call ends glibc's own adaptation of both thresholds: one alone would make matters worse than none.
    if not any(mallopt(_M_MMAP_THRESHOLD, size) for size in (_MAP_BYTES, _OLD_MAP_BYTES)):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))


def memory_in_use(device: str = "cpu") -> dict[str, float]:
    """Return what the process occupies, in megabytes (1e6 bytes), by name.

    "memory_mb" is the resident set; macOS tells only the largest that there ever was, Windows nothing. On CUDA,
    "device_memory_mb" is the largest sum of tensors that there was on the device so far.
    """
    found = {}
    if platform.system() == "Linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["memory_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    elif platform.system() == "Darwin":
        import resource

        found["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if device.startswith("cuda"):
        import torch

        found["device_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return found
