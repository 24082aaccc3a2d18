"""From what a run's folder holds to its report."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldline import __version__
from worldline.cli import runs
from worldline.cli.terminal import describe_duration
from worldline.config import to_dict
from worldline.report.axes import format_number
from worldline.report.figures import learning_curves, machine_curves, settings_table
from worldline.report.page import Page, Section, Tile, write


def write_training_report(out: Path, config: runs.RunConfig) -> Path:
    """Write the report of `worldline train` and return its path."""
    metrics = runs.read_metrics(out)
    total, done = config.training.total_steps, max(runs.steps_done(out), *(int(row["step"]) for row in metrics[-1:]), 0)
    of = f"of {total:,}, " if done < total else ""
    tiles = [
        Tile(label="Steps", value=f"{done:,}", note=f"{of}{config.training.precision}"),
        *data_tiles(config),
    ]
    if losses := runs.logged(metrics, "loss"):
        step, loss = losses[-1]
        tiles.insert(0, Tile(label="Loss", value=format_number(loss), note=f"step {step:,}", is_main=True))
    speeds = runs.logged(metrics, "steps_per_second")
    if speeds and (speed := speeds[-1][1]) > 0:
        times = runs.logged(metrics, "train_seconds")
        note = f"{describe_duration(times[-1][1])} of training" if times else ""
        tiles.append(Tile(label="Speed", value=f"{format_number(round(speed, 2))} steps/s", note=note))
    page = Page(
        title=f"{config.model}: {out.name}",
        summary=" ".join(
            [
                *([f"Trained on {_learnt_from(config, config.data)}."] if config.data else []),
                *([f"Trained online in {config.online.env}."] if config.online else []),
            ]
        ),
        tiles=tiles,
        sections=[*curves_section(metrics), configuration_section(config)],
        footer=footer(),
    )
    return write(page, out / runs.REPORT)


def _learnt_from(config: runs.RunConfig, data: runs.DataFile) -> str:
    """Say how many of the recorded episodes were learnt from."""
    if not config.held_out:
        return f"{data.num_episodes:,} episodes"
    return f"{100 * (1 - config.held_out):.4g}% of {data.num_episodes:,} episodes; the others were held out"


def data_tiles(config: runs.RunConfig) -> list[Tile]:
    """Return what a run learnt from: a file, an environment, or both."""
    tiles = []
    if config.data:
        note = f"{config.data.num_episodes:,} episodes of {Path(config.data.path).name}"
        tiles.append(Tile(label="Data", value=f"{config.data.num_transitions:,} steps", note=note))
    if config.online:
        tiles.append(Tile(label="Environment", value=f"{config.online.env_steps:,} steps", note=config.online.env))
    return tiles


def curves_section(metrics: Sequence[Mapping[str, float]]) -> list[Section]:
    """Return the learning curves and, folded, those of speed and memory; nothing where nothing was logged."""
    if not metrics:
        return []
    text = "docs/models.md says what the names mean and how healthy curves look."
    sections = [Section(title="Learning curves", text=text, figures=[learning_curves(metrics)])]
    if machine := machine_curves(metrics):
        sections.append(Section(title="Speed and memory", figures=[machine], is_folded=True))
    return sections


def configuration_section(config: runs.RunConfig, more: Mapping[str, Any] | None = None) -> Section:
    """Return all settings and versions of a run, and `more` under the name "Run"."""
    tables = [settings_table("Training", to_dict(config.training))]
    if config.online:
        tables.append(settings_table("Online", to_dict(config.online)))
    if config.data:
        data = {
            "file": config.data.path,
            "size": f"{config.data.size:,} bytes",
            "episodes": config.data.num_episodes,
            "steps": config.data.num_transitions,
        }
        tables.append(settings_table("Data", data))
    run = {"command": config.command, "model": config.model, "held_out": config.held_out, **(more or {})}
    return Section(
        title="Configuration",
        tables=[
            *tables,
            settings_table("Run", run),
            settings_table("Versions", config.versions),
            settings_table("All settings of the model", config.model_config, is_folded=True),
        ],
    )


def footer() -> str:
    """Return who wrote the report and when."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"Written by Worldline {__version__} on {now:%Y-%m-%d at %H:%M} UTC."
