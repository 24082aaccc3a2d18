"""Models from checkpoints of `simscale train`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from simscaleai.models.registry import ModelRegistry, is_policy
from simscaleai.training.checkpoint import FINAL, list_checkpoints, load_document
from simscaleai.training.config import TrainConfig
from worldline.config import from_dict, to_dict
from worldline.device import resolve_device
from worldline.errors import ConfigError, FileError
from worldline.models.base import build_outline, load_weights
from worldline.tensor_files import check_tensors


def load_trained(path: Path, *, device: str = "auto") -> nn.Module:
    """Return the model of a checkpoint, in evaluation mode: built as its `config` says, with its weights.

    Args:
        path: The checkpoint, or the folder of a run: its `final.pt`, or its newest `step_N.pt`.
        device: Where to put it.

    Raises:
        FileError: The file is missing or damaged.
        ConfigError: It does not say how the model was built, or the device is not here.
        DataError: Its weights are not those of that model.
    """
    place = resolve_device(device)
    if path.is_dir():
        path = _last_of(path)
    document = load_document(path)
    saved, weights = document["config"], document["model_state_dict"]
    if not isinstance(weights, dict):
        raise FileError(f"{path} has no weights by name. Give a checkpoint of simscale train.")
    try:
        config = from_dict(TrainConfig, saved if isinstance(saved, dict) else to_dict(saved), where="config")
        if is_policy(config.model_name):
            # Its shapes are compared before any memory is taken for them: the file may claim what it likes.
            outline = build_outline(
                lambda: ModelRegistry.create(config.model_name, **config.model_kwargs, device="meta"),
                num_tensors=len(weights),
            )
            check_tensors(outline, weights, where=str(path))
    except (ConfigError, TypeError) as error:
        raise ConfigError(
            f"{path} does not say how its model is built: {error} Build the model, and load model_state_dict."
        ) from error
    model = ModelRegistry.create(config.model_name, **config.model_kwargs)
    load_weights(model, weights, where=str(path))
    return model.to(place).eval()


def _last_of(folder: Path) -> Path:
    found = [*list_checkpoints(folder), *(path for path in [folder / FINAL] if path.is_file())]
    if not found:
        raise FileError(f"{folder} has neither {FINAL} nor step_N.pt. Give a checkpoint of simscale train.")
    return found[-1]
