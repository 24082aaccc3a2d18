"""The pages of `worldline view`: the list of runs, one run, several runs side by side."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from worldline.cli import runs
from worldline.cli.reporting import configuration_section, curves_section, data_tiles
from worldline.cli.terminal import describe_duration
from worldline.cli.view_files import RunFolder
from worldline.config import to_dict
from worldline.errors import FileError
from worldline.report.axes import format_number
from worldline.report.figures import compared_curves, settings_table
from worldline.report.page import Index, IndexRow, Link, Page, Section, Tile
from worldline.report.svg import Series, sparkline

MAX_COMPARED = 8  # four colours, whole and dashed
MAX_CONFIG_BYTES = 128 << 10
_LIST_BYTES, _PAGE_BYTES = 256 << 10, 2 << 20  # of metrics.jsonl that the list of runs and the other pages read
_QUIET_SECONDS = 60.0  # so long after its last line a run may still be running, or three times as long as a line took
_SCORE = "eval/return"
_MAX_PROBLEM = 300  # letters of what is wrong with a configuration


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunState:
    """What is known of a run at this moment."""

    folder: RunFolder
    config: runs.RunConfig | None  # None where there is none, or it cannot be read
    problem: str  # why it cannot
    rows: Sequence[Mapping[str, float]]  # of metrics.jsonl
    age: float  # seconds since the last change

    @property
    def total(self) -> int:
        """Steps of the whole run; 0 where that is not known."""
        return self.config.training.total_steps if self.config else 0

    @property
    def step(self) -> int:
        """The newest logged step."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def status(self) -> str:
        """Running, finished or stopped, as far as files tell; nothing where there is no run."""
        if not self.folder.is_run:
            return ""
        # Beginning or resuming writes the settings, each line the log; the end writes the report, and the model.
        active_at = max(map(self.folder.changed_at, (runs.METRICS, runs.CONFIG)))
        if 0 < self.total <= self.step or self.folder.changed_at(runs.FINAL) > active_at:
            return "finished"
        if self.folder.changed_at(runs.REPORT) > active_at:
            return "stopped"
        times = [time for _, time in runs.logged(self.rows[-2:], "train_seconds")]
        a_line_takes = times[-1] - times[0] if len(times) == 2 else 0.0
        return "running" if self.age < max(_QUIET_SECONDS, 3 * a_line_takes) else "stopped"

    @property
    def what(self) -> str:
        """Model and data in a few words."""
        if self.config is None:
            return self.problem
        sources = [Path(self.config.data.path).name] if self.config.data else []
        sources += [self.config.online.env] if self.config.online else []
        return " · ".join([self.config.model, *sources])

    def newest(self, name: str) -> str:
        """Return the newest value of a metric as it is shown."""
        values = runs.logged(self.rows, name)
        return format_number(values[-1][1]) if values else ""


def state_of(folder: RunFolder, *, max_bytes: int = _PAGE_BYTES) -> RunState:
    """Read the state of a run."""
    config, problem = None, ""
    if runs.CONFIG in folder.files:
        try:
            config, problem = _parsed(folder.read(runs.CONFIG, MAX_CONFIG_BYTES))
        except FileError as error:
            problem = str(error)
    changed = max(map(folder.changed_at, (runs.METRICS, runs.CONFIG, runs.CHECKPOINTS, runs.FINAL, runs.REPORT)))
    return RunState(
        folder=folder,
        config=config,
        problem=problem[:_MAX_PROBLEM],
        rows=folder.metrics(max_bytes),
        age=max(time.time() - changed, 0.0),
    )


def index_page(folders: Mapping[str, RunFolder], root: Path) -> Index:
    """Return the list of all runs, the last changed first."""
    states = sorted((state_of(folder, max_bytes=_LIST_BYTES) for folder in folders.values()), key=lambda run: run.age)
    num_running = sum(state.status == "running" for state in states)
    counted = f"{len(states)} run{'' if len(states) == 1 else 's'}, {num_running} running"
    return Index(
        title=root.name or str(root),
        summary=f"{counted}." if states else f"There is no run in {root}. worldline train --out writes one.",
        rows=[_index_row(state) for state in states],
        footer=f"{root} at {_now()}",
        is_live=num_running > 0,
    )


def run_page(folder: RunFolder) -> Page:
    """Return the page of one run: numbers, curves, settings.

    Raises:
        FileError: The folder has a report only.
    """
    if not folder.is_run:
        raise FileError(f"{folder.name} is no run. / lists the runs.")
    state = state_of(folder)
    links = [Link(label="All runs", href="/")]
    if runs.REPORT in folder.files:
        links.append(Link(label="Report", href=address("report", folder.name)))
    if runs.CONFIG in folder.files:
        links.append(Link(label=runs.CONFIG, href=address("config", folder.name)))
    steps = Tile(label="Steps", value=f"{state.step:,}", note=f"of {state.total:,}" if state.total else "")
    tiles = [steps, *(data_tiles(state.config) if state.config else [])]
    for name, label in ((_SCORE, "Return"), ("loss", "Loss")):
        if values := runs.logged(state.rows, name):
            step, value = values[-1]
            tiles.insert(
                0, Tile(label=label, value=format_number(value), note=f"step {step:,}", is_main=name == "loss")
            )
    if speeds := runs.logged(state.rows, "steps_per_second"):
        tiles.append(Tile(label="Speed", value=f"{speeds[-1][1]:.4g} steps/s", note=_time_left(state, speeds[-1][1])))
    return Page(
        title=folder.label,
        summary=f"{state.what}{'. ' if state.what else ''}{state.status.capitalize()}, last change {_ago(state.age)}.",
        tiles=tiles,
        sections=[*curves_section(state.rows), *([configuration_section(state.config)] if state.config else [])],
        footer=_now(),
        links=links,
        is_live=state.status == "running",
    )


def compare_page(folders: Sequence[RunFolder]) -> Page:
    """Return the curves of several runs side by side, and the settings in which they differ."""
    states = [state_of(folder, max_bytes=_PAGE_BYTES // len(folders)) for folder in folders]
    rows = {state.folder.label: state.rows for state in states}
    return Page(
        title="Side by side",
        summary=f"{len(states)} runs.",
        sections=[Section(title="Learning curves", figures=[compared_curves(rows)]), *_differences(states)],
        footer=_now(),
        links=[
            Link(label="All runs", href="/"),
            *(Link(label=folder.label, href=address("run", folder.name)) for folder in folders),
        ],
        is_live=any(state.status == "running" for state in states),
    )


def address(page: str, name: str) -> str:
    """Return the address of a page of the run `name`."""
    return f"/{page}/{quote(os.fsencode(name), safe='/')}"


@functools.lru_cache(maxsize=256)
def _parsed(content: bytes) -> tuple[runs.RunConfig | None, str]:
    """Return what a `config.yaml` says, or else what is wrong with it. Reading YAML takes the most time of a page."""
    try:
        return runs.parse_config(content, runs.RunConfig, path=Path(runs.CONFIG)), ""
    except FileError as error:
        return None, str(error)


def _index_row(state: RunState) -> IndexRow:
    losses = runs.logged(state.rows, "loss")
    line = Series(name="loss", x=[step for step, _ in losses], y=[value for _, value in losses])
    folder = state.folder
    of = f" / {state.total:,}" if state.total else ""
    return IndexRow(
        name=folder.name,
        label=folder.label,
        href=address("run", folder.name),
        what=state.what,
        is_run=folder.is_run,
        status=state.status,
        steps=f"{state.step:,}{of}" if folder.is_run else "",
        progress=min(state.step / state.total, 1.0) if state.total else None,
        loss=state.newest("loss"),
        score=state.newest(_SCORE),
        curve=sparkline(line),
        changed=_ago(state.age),
        report_href=address("report", folder.name) if runs.REPORT in folder.files else "",
    )


def _differences(states: Sequence[RunState]) -> list[Section]:
    """Return the settings that are not the same in all runs."""
    settings = {state.folder.label: _settings(state.config) for state in states if state.config}
    names = dict.fromkeys(name for values in settings.values() for name in values)
    tables = []
    for run, values in settings.items():
        differing = {
            name: values[name]
            for name in names
            if name in values and any(other.get(name) != values[name] for other in settings.values())
        }
        tables.append(settings_table(run, differing))
    return [Section(title="Settings that differ", tables=tables)] if len(settings) > 1 else []


def _settings(config: runs.RunConfig) -> dict[str, Any]:
    values = {"model": config.model, "data": config.data.path if config.data else None}
    online = to_dict(config.online) if config.online else {}
    return {**config.model_config, **to_dict(config.training), **online, **values}


def _time_left(state: RunState, speed: float) -> str:
    if state.status != "running" or state.total <= state.step or not 0 < speed < math.inf:
        return ""
    return f"{describe_duration((state.total - state.step) / speed)} left"


def _ago(seconds: float) -> str:
    if seconds < 3 * 86_400:
        return f"{describe_duration(seconds)} ago" if seconds >= 1 else "now"
    return f"{seconds / 86_400:.0f} days ago"


def _now() -> str:
    return f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"
