"""Only operators that give the same bits every time, for as long as a run takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Run the body with torch's deterministic algorithms, if `wanted`, and put back afterwards what was set.

    An operator that has none raises a RuntimeError which names it. cuDNN does not look for its fastest algorithm, which
    differs from run to run, and cuBLAS keeps to a workspace of a fixed size, unless the environment says of which.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn_before = cudnn.deterministic, cudnn.benchmark
    cublas_before = os.environ.get(_CUBLAS)
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    os.environ.setdefault(_CUBLAS, ":4096:8")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = cudnn_before
        if cublas_before is None:
            del os.environ[_CUBLAS]
