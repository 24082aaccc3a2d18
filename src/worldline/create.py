"""Build, list and load models of every family by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from worldline import registry
from worldline.config import from_dict, to_dict
from worldline.device import resolve_device
from worldline.errors import ConfigError, DataError, FileError, nearest

if TYPE_CHECKING:
    import torch

    from worldline.models.base import Model, Pretrained

# What a front door makes of a family's class: the same model with its own names for the methods.
Adapt: TypeAlias = "Callable[[type[Model]], type[Model]]"


def create_model(model: str | os.PathLike[str], *, device: str | torch.device = "cpu", **settings: Any) -> Model:
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
    return create_adapted(model, device=device, settings=settings)


def load_model(path: str | os.PathLike[str], *, device: str | torch.device = "cpu", **settings: Any) -> Model:
    """Load a model that `save_pretrained` wrote, in evaluation mode.

    Args:
        path: The folder.
        device: As for `create_model`.
        **settings: Fields of the configuration that the saved model must have.

    Raises:
        FileError: A file is missing or damaged; the message names it.
        ConfigError: The saved configuration cannot be used, or differs from `settings`.
        DataError: The weights are not those of the configuration.
    """
    return _load(Path(path).expanduser(), device=device, settings=settings, adapt=None)


def create_adapted(
    model: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any],
    adapt: Adapt | None = None,
) -> Model:
    """Do what `create_model` does, building `adapt(model class)` instead of the family's own class.

    For the front doors, whose models have further names for the same methods.
    """
    path = saved_path(model)
    if path is not None:
        return _load(path, device=device, settings=settings, adapt=adapt)
    place = resolve_device(device)
    family, size = registry.resolve(os.fspath(model))
    values = {**registry.load(family, "SIZES")[size], **settings}
    config = from_dict(registry.load(family, family.config), values, where=f"{family.name}:{size}")
    return _model_class(family, adapt)(config).to(place)


def list_models() -> list[str]:
    """Return every model that can be built, as "family:size"."""
    return [
        f"{family.name}:{size}" for family in registry.families().values() for size in registry.load(family, "SIZES")
    ]


def saved_path(model: str | os.PathLike[str]) -> Path | None:
    """Return the saved model's folder that `model` means, or None where it is the name of a model.

    A name wins over a folder that is not a saved model: a folder `dreamerv3/` of one's own does not hide the family.

    Raises:
        FileError: `model` can only be a path, and nothing is there; the message has the nearest saved model.
    """
    name = os.fspath(model)
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    if isinstance(model, str) and os.sep not in name and not name.startswith((".", "~")):
        return None
    if path.is_dir():
        return path  # reading it says what is missing
    saved = [str(found.parent) for found in path.parent.glob("*/config.json")] if path.parent.is_dir() else []
    hint = nearest(str(path), saved) if saved else "Give the folder of a saved model, or 'family:size'."
    raise FileError(f"There is no saved model at {name!r}. {hint}")


def rebuild(
    saved: Pretrained,
    *,
    config_at: str,
    weights_at: str,
    settings: Mapping[str, Any] | None = None,
    adapt: Adapt | None = None,
) -> Model:
    """Return the model that was saved, wherever that was read from, in evaluation mode.

    Args:
        saved: Family, configuration and weights; none of it is trusted.
        config_at: What messages call the place of the configuration.
        weights_at: The same of the weights.
        settings: Fields of the configuration that it must have.
        adapt: As for `create_adapted`.

    Raises:
        ConfigError: The configuration cannot be used, or differs from `settings`.
        DataError: The weights are not those of the configuration.
    """
    from worldline.models.base import build_outline, load_weights
    from worldline.tensor_files import RESTORE, check_tensors

    try:
        family, _ = registry.resolve(saved.family)
        config_class = registry.load(family, family.config)
        config = from_dict(config_class, saved.config, where="config")
    except ConfigError as error:
        raise ConfigError(f"{config_at} cannot be used: {error} {RESTORE}") from error
    asked = from_dict(config_class, {**saved.config, **(settings or {})}, where=family.name)
    has, given = to_dict(config), to_dict(asked)
    if differing := [f"{name} is {has[name]}, not {given[name]}" for name in has if has[name] != given[name]]:
        raise ConfigError(
            f"The model saved in {config_at} has other settings than those given: {'; '.join(differing)}. Use it with "
            "data and settings like those that it was built for."
        )
    model_class = _model_class(family, adapt)
    # The shapes are compared before any memory is taken for them: the file may claim what it likes.
    try:
        outline = build_outline(lambda: model_class(config), num_tensors=len(saved.tensors))
    except DataError as error:
        raise DataError(f"{config_at} does not describe the model that was saved: {error}. {RESTORE}") from error
    check_tensors(outline, saved.tensors, where=weights_at)
    model = model_class(config)
    load_weights(model, saved.tensors, where=weights_at)
    return model.eval()


def _load(path: Path, *, device: str | torch.device, settings: Mapping[str, Any], adapt: Adapt | None) -> Model:
    from worldline.models.base import read_pretrained

    place = resolve_device(device)
    saved = read_pretrained(path)
    where = {"config_at": f"{path}/config.json", "weights_at": f"{path}/model.safetensors"}
    return rebuild(saved, **where, settings=settings, adapt=adapt).to(place)


def _model_class(family: registry.Family, adapt: Adapt | None) -> type[Model]:
    own: type[Model] = registry.load(family, family.model)
    return adapt(own) if adapt else own
