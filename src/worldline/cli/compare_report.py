"""What a comparison found, as numbers, on the terminal and as a page."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldline.cli import runs
from worldline.cli.collect import RANDOM
from worldline.cli.compare import SUMMARY, CompareConfig, Contestant, folder_of
from worldline.cli.measured import interval_or_none, result_numbers, returns_rows, returns_table
from worldline.cli.paired import Paired, best_of
from worldline.cli.reporting import footer
from worldline.cli.terminal import describe_duration, describe_interval, print_table, results
from worldline.config import to_dict
from worldline.data.buffer import ReplayBuffer
from worldline.evaluation.rollout import EvaluationResult
from worldline.report.figures import learning_curves, returns_by_rank, settings_table
from worldline.report.page import Page, Section, Table, Tile, write

_DATA = "the data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was measured."""

    config: CompareConfig
    buffer: ReplayBuffer
    contestants: Mapping[str, Contestant]  # by "family:size"
    failures: Mapping[str, str]  # why, by "family:size"
    random: EvaluationResult

    @property
    def played(self) -> dict[str, EvaluationResult]:
        """What was measured on the same episodes: the models, and random actions."""
        models = {name: contestant.measured for name, contestant in self.contestants.items()}
        return {**models, RANDOM: self.random}

    @functools.cached_property
    def paired(self) -> Paired:
        """The best of them against each other."""
        return Paired.of(self.played, best_of(self.played))

    def summary(self) -> dict[str, Any]:
        """Return what `summary.json` holds."""
        data = recorded(self.buffer)
        return {
            "env": self.config.env,
            "models": {
                name: {
                    **result_numbers(contestant.measured),
                    "num_parameters": contestant.num_parameters,
                    "train_seconds": contestant.train_seconds,
                    "training": to_dict(contestant.run_config.training),
                    "settings": contestant.run_config.model_settings,
                }
                for name, contestant in self.contestants.items()
            },
            "failures": dict(self.failures),
            "paired": self.paired.numbers(),
            "random": result_numbers(self.random),
            "data": {
                "file": str(self.config.data),
                "num_episodes": self.buffer.num_episodes,
                "num_transitions": self.buffer.num_transitions,
                "return_mean": data.mean,
                "return_std": data.std,
                "return_interval95": interval_or_none(data),
            },
            "config": to_dict(self.config),
            "versions": runs.versions(),
        }


def recorded(buffer: ReplayBuffer) -> EvaluationResult:
    """Return what the policy that recorded the data achieved."""
    return EvaluationResult.from_episodes(list(buffer.episodes()))


def finish(comparison: Comparison, out: Path) -> None:
    """Write `report.html` and `summary.json`, and print the table."""
    config = comparison.config
    write(make_page(comparison, out), out / runs.REPORT)
    runs.write_text(out / SUMMARY, json.dumps(comparison.summary(), indent=2) + "\n")
    table = returns_table(f"{config.env}, {config.episodes} episodes", _measured(comparison))
    for name in comparison.failures:
        table.add_row(name, "failed")
    print_table(table)
    if comparison.contestants:
        print_table(comparison.paired.table())
    results.print(f"Numbers: {out / SUMMARY}\nReport:  {out / runs.REPORT}", soft_wrap=True)


def make_page(comparison: Comparison, out: Path) -> Page:
    """Return the report."""
    config, buffer = comparison.config, comparison.buffer
    names = ", ".join(comparison.contestants) or "No model"
    failed = f" Failed: {', '.join(comparison.failures)}." if comparison.failures else ""
    return Page(
        title=f"{config.env}: models side by side",
        summary=(
            f"{names} learnt from the same {buffer.num_episodes:,} episodes, of a mean return of "
            f"{recorded(buffer).mean:.1f}, and from nothing else. Their policies were then run in the environment."
            f"{failed}"
        ),
        tiles=_tiles(comparison),
        sections=[
            _returns_section(comparison),
            *([_paired_section(comparison.paired)] if comparison.contestants else []),
            *(
                Section(
                    title=f"Learning curves: {name}",
                    figures=[learning_curves(metrics)],
                )
                for name in comparison.contestants
                if (metrics := runs.read_metrics(folder_of(out, name)))
            ),
            _configuration_section(comparison),
        ],
        footer=footer(),
    )


def _measured(comparison: Comparison) -> dict[str, EvaluationResult]:
    """Return the lines of the table: the models, the yardsticks."""
    return {**comparison.played, _DATA: recorded(comparison.buffer)}


def _tiles(comparison: Comparison) -> list[Tile]:
    best = comparison.paired.name
    return [
        *(
            Tile(
                label=f"Return, {name}",
                value=f"{contestant.measured.mean:.1f}",
                note=describe_interval(interval_or_none(contestant.measured)),
                is_main=name == best,
            )
            for name, contestant in comparison.contestants.items()
        ),
        Tile(
            label=f"Return, {RANDOM}",
            value=f"{comparison.random.mean:.1f}",
            note=describe_interval(interval_or_none(comparison.random)),
            is_main=best == RANDOM,
        ),
    ]


def _returns_section(comparison: Comparison) -> Section:
    config = comparison.config
    measured = _measured(comparison)
    columns, achieved = returns_rows(measured)
    rows = [(name, *row, *_effort(comparison, name)) for name, row in zip(measured, achieved, strict=True)]
    header = ("Policy", *map(str.capitalize, columns), "Parameters", "Training")
    tables = [Table(title="Returns", header=header, rows=rows)]
    if comparison.failures:
        tables.append(Table(title="Failed", header=("Model", "Why"), rows=list(comparison.failures.items())))
    ways = {
        None: "acts as its family is meant to, most by their likeliest actions",
        True: "takes its likeliest actions",
        False: "samples its actions",
    }
    lines = {name: result.returns for name, result in measured.items() if name != _DATA}
    return Section(
        title="Return in the environment",
        text=(
            f"{config.episodes} episodes each, from the same initial states; each policy {ways[config.way_of_acting]}. "
            f"The interval is that of the mean. The line of {_DATA} is about the recorded episodes."
        ),
        figures=[returns_by_rank(lines, num_coloured=len(comparison.contestants))],
        tables=tables,
    )


def _paired_section(paired: Paired) -> Section:
    section = paired.section()
    return dataclasses.replace(
        section, text=f"{section.text} The best is chosen by the same episodes, which flatters it a little."
    )


def _effort(comparison: Comparison, name: str) -> tuple[str, str]:
    """Return the number of parameters and the training time; nothing for a yardstick."""
    if name not in comparison.contestants:
        return "", ""
    contestant = comparison.contestants[name]
    return f"{contestant.num_parameters:,}", describe_duration(contestant.train_seconds)


def _configuration_section(comparison: Comparison) -> Section:
    tables = [settings_table("Comparison", to_dict(comparison.config))]
    for name, contestant in comparison.contestants.items():
        tables.append(settings_table(f"Training of {name}", to_dict(contestant.run_config.training)))
    tables.append(settings_table("Versions", runs.versions()))
    for name, contestant in comparison.contestants.items():
        settings = contestant.run_config.model_config
        tables.append(settings_table(f"All settings of {name}", settings, is_folded=True))
    return Section(title="Configuration", tables=tables)
