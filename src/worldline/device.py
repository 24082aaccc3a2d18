"""Devices by name, checked where the user names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str | torch.device) -> str:
    """Return the device that "auto" means here (the best one), or check that the named one is here.

    Raises:
        ConfigError: The device is unknown or not here.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except RuntimeError:
        parsed = None
    num_present = {
        "cpu": 1,
        "meta": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if parsed is None or parsed.type not in num_present:
        raise ConfigError(f"Unknown device {str(device)!r}. Use 'cpu', 'cuda', 'cuda:0', 'mps' or 'auto'.")
    if (parsed.index or 0) >= num_present[parsed.type]:
        raise ConfigError(
            f"Device {str(device)!r} is not available here ({num_present[parsed.type]} of type {parsed.type!r} found). "
            "Use device='auto' to take what there is, or 'cpu'."
        )
    return str(device)


def device_of(subject: object) -> torch.device:
    """Return where the parameters of a module are; the CPU for what is no module, or has none."""
    import torch

    first = next(subject.parameters(), None) if isinstance(subject, torch.nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on the device; to CUDA it goes through pinned memory and is not waited for."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
