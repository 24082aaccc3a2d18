"""`worldline inspect`: what is in a data file, a run, a saved model, or the list of models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldline.cli import runs
from worldline.cli.options import parse
from worldline.errors import FileError

if TYPE_CHECKING:
    from rich.table import Table

    from worldline.data.buffer import ReplayBuffer
    from worldline.episode import Array, Episode

MODELS = "models"
_MAX_COMPONENTS = 8  # rows of a vector observation that are listed one by one
_EXAMPLE = {"obs_shape": (4,), "action_dim": 2}

_DESCRIPTION = """\
Show what is in a data file, a run, a saved model, or the list of models.

Examples:
  worldline inspect models
  worldline inspect cartpole.npz
  worldline inspect runs/cartpole
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of `worldline inspect`."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """A data file, the folder of a run or a saved model, or the word models."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    from worldline.cli.terminal import results

    options = parse(InspectOptions, arguments, command="inspect", description=_DESCRIPTION)
    path = Path(options.target).expanduser()
    if options.target == MODELS:
        tables = [_models()]
    elif path.is_file():
        tables = _data_file(path)
    elif path.is_dir():
        tables = _run(path) if (path / runs.CONFIG).is_file() else [_saved_model(path)]
    else:
        raise FileError(f"There is no {path}. Give a data file, a folder, or the word models.")
    for table in tables:
        results.print(table)


def _models() -> Table:
    import torch

    from worldline.create import create_model, list_models
    from worldline.models.base import num_trained

    table = _table("Models", "name", "parameters")
    for name in list_models():
        with torch.device("meta"):  # shapes only: the largest model costs no memory
            model = create_model(name, device="meta", **_EXAMPLE)
        table.add_row(name, f"{num_trained(model):,}")
    table.caption = "with 4 observations and 2 actions"
    return table


def _data_file(path: Path) -> list[Table]:
    import numpy as np

    from worldline.data.buffer import ReplayBuffer

    buffer = ReplayBuffer.load(path)
    episodes = list(buffer.episodes())
    returns = np.array([episode.rewards.sum(dtype=np.float64) for episode in episodes])
    lengths = np.array([len(episode) for episode in episodes])
    spec = buffer.spec
    summary = _table(str(path), "", "")
    summary.show_header = False
    summary.add_row("file", f"{path.stat().st_size:,} bytes")
    summary.add_row("episodes", f"{buffer.num_episodes:,}")
    summary.add_row("steps", f"{buffer.num_transitions:,}")
    summary.add_row("length", _spread(lengths))
    summary.add_row("return", _spread(returns))
    summary.add_row("ended", _endings(episodes))
    summary.add_row("final observations", f"{sum(e.final_obs is not None for e in episodes):,} episodes")
    summary.add_row("actions", f"{spec.action_type}, {spec.action_dim} wide")
    if environments := sorted({str(episode.meta["env"]) for episode in episodes if "env" in episode.meta}):
        summary.add_row("environment", ", ".join(environments))
    return [summary, _columns(buffer, episodes)]


def _columns(buffer: ReplayBuffer, episodes: Sequence[Episode]) -> Table:
    import numpy as np

    from worldline.episode import named_obs

    table = _table("Columns", "name", "shape", "dtype", "min", "mean", "max")
    columns: dict[str, Array] = {}
    for name in named_obs(episodes[0].obs):
        columns[name] = np.concatenate([named_obs(episode.obs)[name] for episode in episodes])
    columns["actions"] = np.concatenate([episode.actions for episode in episodes])
    columns["rewards"] = np.concatenate([episode.rewards for episode in episodes])
    for name, column in columns.items():
        table.add_row(name, str(column.shape[1:]), str(column.dtype), *_range(column))
        if column.ndim == 2 and 1 < column.shape[1] <= _MAX_COMPONENTS:
            for index in range(column.shape[1]):
                table.add_row(f"  {name}[{index}]", "", "", *_range(column[:, index]))
    return table


def _run(path: Path) -> list[Table]:
    config = runs.read_config(path / runs.CONFIG, runs.RunConfig)
    metrics = runs.read_metrics(path)
    summary = _table(str(path), "", "")
    summary.show_header = False
    summary.add_row("model", config.model)
    if config.model_settings:
        summary.add_row("settings", ", ".join(f"{key}={value}" for key, value in config.model_settings.items()))
    if data := config.data:
        summary.add_row("data", f"{data.path} ({data.num_episodes:,} episodes, {data.num_transitions:,} steps)")
    if online := config.online:
        summary.add_row("environment", f"{online.env} ({online.env_steps:,} steps, {online.num_envs} together)")
    training = config.training
    summary.add_row("batch", f"{training.batch_size} x {training.sequence_length}, {training.precision}")
    summary.add_row("learning rate", f"{training.learning_rate:g}")
    summary.add_row("seed", str(training.seed))
    step = int(metrics[-1]["step"]) if metrics else 0
    summary.add_row("progress", f"step {step:,} of {training.total_steps:,} logged")
    if losses := runs.logged(metrics, "loss"):
        summary.add_row("loss", f"{losses[0][1]:.4g} at first, {losses[-1][1]:.4g} at last")
    summary.add_row("command", config.command)
    return [summary, _checkpoints(path)]


def _checkpoints(path: Path) -> Table:
    from worldline.models.base import read_pretrained
    from worldline.training.checkpoint import list_checkpoints, load_checkpoint

    table = _table("Saved", "name", "size", "state")
    for checkpoint in list_checkpoints(path / runs.CHECKPOINTS):
        try:
            load_checkpoint(checkpoint)
            state = "intact"
        except FileError as error:
            state = f"damaged: {error}"
        table.add_row(f"{runs.CHECKPOINTS}/{checkpoint.name}", _size(checkpoint), state)
    for final in (path / runs.FINAL, path / runs.UNAVERAGED):
        if not final.is_dir():
            continue
        try:
            read_pretrained(final)
            state = "intact"
        except FileError as error:
            state = f"damaged: {error}"
        table.add_row(final.name, _size(final), state)
    return table


def _saved_model(path: Path) -> Table:
    from worldline.models.base import read_pretrained

    saved = read_pretrained(path)
    table = _table(f"{path}: {saved.family}", "setting", "value")
    numbers = sum(tensor.numel() for tensor in saved.tensors.values())
    table.add_row("numbers saved", f"{numbers:,} in {len(saved.tensors)} tensors")
    for key, value in saved.config.items():
        table.add_row(key, str(value))
    return table


def _table(title: str, *headers: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, header in enumerate(headers):
        table.add_column(header, overflow="fold", justify="left" if index == 0 or len(headers) == 2 else "right")
    return table


def _spread(values: Array) -> str:
    return f"{values.min():,.4g} to {values.max():,.4g}, mean {values.mean():,.4g}"


def _range(column: Array) -> list[str]:
    return [f"{value:.4g}" for value in (column.min(), column.mean(dtype="float64"), column.max())]


def _endings(episodes: Sequence[Episode]) -> str:
    terminated = sum(episode.terminated for episode in episodes)
    truncated = sum(episode.truncated and not episode.terminated for episode in episodes)
    neither = len(episodes) - terminated - truncated
    parts = [f"{terminated:,} terminated", f"{truncated:,} truncated"]
    return ", ".join(parts + ([f"{neither:,} broken off"] if neither else []))


def _size(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.iterdir()):,} bytes"
