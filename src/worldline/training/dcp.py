"""Weights in the format of torch.distributed.checkpoint: every process writes the part that it has.

For a model whose parts shall not be gathered as often as they are saved, and for other tools that read this format. It
holds weights and buffers, not a run: what a run is resumed from are the checkpoints of `CheckpointCallback`, which are
gathered, whatever the strategy.

Torch reads the format with `pickle`, which runs whatever code is in the files. So it is read only if you say that you
trust whoever wrote them. `load_weights(model, ...)` and `model.save_pretrained(...)` turn it into safetensors.
"""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from worldline.errors import ConfigError, FileError
from worldline.files import sync
from worldline.training.trainer import Trainer


def save_weights(trainer: Trainer[Any], path: str | os.PathLike[str]) -> None:
    """Write the present weights into the new folder `path`, whole or not at all; to be called by all processes.

    Raises:
        FileError: There is something at `path`, or it cannot be written.
    """
    folder, ranks = Path(path), trainer.ranks
    unfinished = folder.with_name(f".saving_{folder.name}")
    ranks.first(lambda: _make_room(folder, unfinished))
    save({"model": dict(trainer.parts())}, checkpoint_id=unfinished, no_dist=ranks.is_alone)
    ranks.wait()
    if ranks.is_main:
        unfinished.rename(folder)
        sync(folder.parent)
    ranks.wait()


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, trusted: bool = False) -> None:
    """Read into `model`, a whole one, what `save_weights` wrote from any number of processes.

    Args:
        model: Of the same settings as the one that was saved.
        path: The folder.
        trusted: That you trust whoever wrote it. Reading it can run any code.

    Raises:
        ConfigError: It is not trusted; nothing was read.
        FileError: It is missing, damaged or of another model.
    """
    if not trusted:
        raise ConfigError(
            f"{path} is in the format of torch.distributed.checkpoint, which torch reads with pickle: that can run any "
            "code. If you trust whoever wrote it, pass trusted=True. Checkpoints of CheckpointCallback need no trust."
        )
    state = model.state_dict()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # on purpose
            load({"model": state}, checkpoint_id=Path(path), no_dist=True)
    except (CheckpointException, OSError) as error:
        raise FileError(f"{path} cannot be read: {error}. Give a folder that save_weights wrote.") from error
    model.load_state_dict(state)


def _make_room(folder: Path, unfinished: Path) -> None:
    if folder.exists():
        raise FileError(f"{folder} is there already. Choose a new folder.")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot make the folder {folder.parent}: {error}.") from error
