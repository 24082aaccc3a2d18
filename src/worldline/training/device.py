"""Which device training runs on."""

from __future__ import annotations

import torch

from worldline.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` means here; "auto" is the first of CUDA, MPS and CPU that is present.

    Raises:
        ConfigError: There is no such device here.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind, _, index = name.partition(":")
    if kind not in present or (index and not index.isdecimal()):
        raise ConfigError(f"Unknown device {name!r}. Use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'.")
    if not present[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"Device {name!r} is not available here. Use device='auto' to take what there is, or 'cpu'.")
    return torch.device(name)
