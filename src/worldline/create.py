"""Build, list and load models of every family by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldline import registry
from worldline.config import from_dict
from worldline.errors import ConfigError, FileError

if TYPE_CHECKING:
    from worldline.models.base import Model


def create_model(model: str | os.PathLike[str], *, device: str = "cpu", **settings: Any) -> Model:
    """Build a new model, or load a saved one.

    Args:
        model: "family:size" ("dreamerv3:size12m"), a family or alias ("dreamer-small"), or a saved model's folder.
        device: "cpu", "cuda", "mps" or "auto" (the best one that is here).
        **settings: Fields of the family's configuration; the size gives the rest. `obs_shape` (a tuple, or a dict of
            them) and `action_dim` are what every family needs.

    Raises:
        ConfigError: An unknown family, size or setting; the message has the nearest ones.
        FileError: `model` is a path, and there is no saved model there.
    """
    name = os.fspath(model)
    if _looks_like_path(name):
        return load_model(name, device=device, **settings)
    family, size = registry.resolve(name)
    config_class = registry.load(family, family.config)
    values = {**registry.load(family, "SIZES")[size], **settings}
    config = from_dict(config_class, values, where=f"{family.name}:{size}")
    built: Model = registry.load(family, family.model)(config)
    return built.to(resolve_device(device))


def load_model(path: str | os.PathLike[str], *, device: str = "cpu", **settings: Any) -> Model:
    """Load a model that `save_pretrained` wrote, in evaluation mode.

    Raises:
        FileError: A file is missing or damaged; the message names it.
        ConfigError: Settings were given that differ from the saved ones.
    """
    from worldline.models.base import load_weights, read_pretrained

    saved = read_pretrained(path)
    family, _ = registry.resolve(saved.family)
    config = from_dict(registry.load(family, family.config), saved.config, where=f"{path}/config.json")
    asked = from_dict(type(config), {**saved.config, **settings}, where=family.name)
    if asked != config:
        raise ConfigError(f"The model saved in {path} has other settings than those given. Load it without settings.")
    model: Model = registry.load(family, family.model)(config)
    load_weights(model, saved.tensors, where=f"{path}/model.safetensors")
    return model.to(resolve_device(device)).eval()


def list_models() -> list[str]:
    """Return every model that can be built, as "family:size"."""
    return [
        f"{family.name}:{size}" for family in registry.families().values() for size in registry.load(family, "SIZES")
    ]


def resolve_device(device: str) -> str:
    """Return the device that "auto" means here, or check that the named one is here.

    Raises:
        ConfigError: The device is unknown or not here.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.partition(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "meta": True}
    if kind not in present:
        raise ConfigError(f"Unknown device {device!r}. Use 'cpu', 'cuda', 'cuda:0', 'mps' or 'auto'.")
    if not present[kind]:
        raise ConfigError(
            f"Device {device!r} is not available here. Use device='auto' to take what there is, or 'cpu'."
        )
    return device


def _looks_like_path(name: str) -> bool:
    if Path(name).is_dir():
        return True
    if os.sep in name or name.startswith((".", "~")):
        raise FileError(f"There is no saved model at {name!r}. Give an existing folder, or 'family:size'.")
    return False
