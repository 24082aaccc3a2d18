"""`worldline inspect`: what is in data, a run, a saved model, or the list of models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldline.cli import runs
from worldline.cli.options import parse
from worldline.errors import ConfigError, FileError

if TYPE_CHECKING:
    from rich.table import Table

MODELS = "models"
_EXAMPLE = {"obs_shape": (4,), "action_dim": 2}

_DESCRIPTION = """\
Show what is in data, a run, a saved model, or the list of models.

Examples:
  worldline inspect models
  worldline inspect cartpole.npz
  worldline inspect can_ph.hdf5 --report can.html
  worldline inspect runs/cartpole
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of `worldline inspect`."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """Data of any format, the folder of a run or a saved model, or the word models."""
    report: Path | None = None
    """Of data: also write a page with plots to this file."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    from worldline.cli.terminal import print_table

    options = parse(InspectOptions, arguments, command="inspect", description=_DESCRIPTION)
    path = Path(options.target).expanduser()
    is_data = path.is_file() or _is_data(path)
    if options.report is not None and not (is_data and options.target != MODELS):
        raise ConfigError(f"--report is for data; {options.target} is none. Leave it out.")
    if options.target == MODELS:
        tables = [_models()]
    elif is_data:
        show_data(path, options.report)
        return
    elif path.is_dir():
        if not (path / runs.CONFIG).is_file() and not (path / "config.json").is_file():
            raise FileError(
                f"{path} is neither data, nor a run, nor a saved model. Give one of these; worldline view shows all "
                "runs of a folder."
            )
        tables = _run(path) if (path / runs.CONFIG).is_file() else [_saved_model(path)]
    else:
        raise FileError(f"There is no {path}. Give data, a folder, or the word models.")
    for table in tables:
        print_table(table)


def _is_data(path: Path) -> bool:
    from worldline.data.formats.catalog import FORMATS, module_of

    return path.is_dir() and any(module_of(name).detect(path) for name, known in FORMATS.items() if known.is_folder)


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


def show_data(path: Path, report: Path | None) -> None:
    """Print what is in data of any format, and write a page with plots to `report`.

    Raises:
        FileError: There is none, or it is damaged or of no format that is known.
    """
    from rich import box

    from worldline.cli.inspect_data import column_rows, columns_header, summary_rows, write_report
    from worldline.cli.terminal import print_table, results
    from worldline.data.formats.catalog import detect_format, read_recording
    from worldline.data.summary import summarise

    with read_recording(path) as recording:
        found = summarise(recording)
        facts = summary_rows(path, detect_format(path), recording, found)
        written = None if report is None else write_report(report, path, facts, found, recording)
    summary = _table(str(path), "", "")
    summary.show_header = False
    for row in facts:
        summary.add_row(*row)
    columns = _table("Columns", *columns_header(found))
    for column in columns.columns[1:]:
        column.no_wrap = True  # a narrow terminal breaks long names, and nothing else
    columns.box, columns.padding, columns.show_edge = box.SIMPLE_HEAD, (0, 1, 0, 0), False
    for row in column_rows(found):
        columns.add_row(*row)
    print_table(summary)
    print_table(columns)
    if written is not None:
        results.print(f"Wrote {written}", soft_wrap=True, markup=False)


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


def _size(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.iterdir()):,} bytes"
