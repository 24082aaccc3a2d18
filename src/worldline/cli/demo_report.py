"""What the demo found, as numbers, on the terminal and as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from worldline.cli import runs
from worldline.cli.demo import SUMMARY, DemoConfig
from worldline.cli.measured import interval_or_none
from worldline.cli.reporting import configuration_section, curves_section, footer
from worldline.cli.terminal import describe_duration, describe_interval, describe_ratio, print_table, results
from worldline.config import to_dict
from worldline.data.buffer import ReplayBuffer
from worldline.evaluation.openloop import OpenLoopError
from worldline.evaluation.rollout import EvaluationResult
from worldline.report.figures import horizon_table, open_loop_curves, returns_by_rank, trajectories
from worldline.report.page import Page, Section, Tile, write

_COMPONENTS = {"CartPole-v1": ("cart position (m)", "cart velocity (m/s)", "pole angle (rad)", "pole velocity (rad/s)")}
_MAX_COMPONENTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything that was measured."""

    config: DemoConfig
    run_config: runs.RunConfig
    buffer: ReplayBuffer
    num_training_episodes: int
    num_parameters: int
    learnt: EvaluationResult
    random: EvaluationResult
    open_loop: OpenLoopError
    train_seconds: float
    total_seconds: float  # of this call; a resumed demo did part of its work before

    def summary(self) -> dict[str, Any]:
        """Return what `summary.json` holds."""
        return {
            "env": self.config.env,
            "seed": self.config.seed,
            "eval_return_mean": self.learnt.mean,
            "eval_return_std": self.learnt.std,
            "eval_return_interval": interval_or_none(self.learnt),
            "eval_returns": list(self.learnt.returns),
            "random_return_mean": self.random.mean,
            "random_return_std": self.random.std,
            "random_returns": list(self.random.returns),
            "env_steps": self.buffer.num_transitions,
            "num_episodes": self.buffer.num_episodes,
            "num_training_episodes": self.num_training_episodes,
            "num_parameters": self.num_parameters,
            "train_steps": self.config.total_steps,
            "train_seconds": self.train_seconds,
            "total_seconds": self.total_seconds,
            "open_loop_context": self.open_loop.context,
            "open_loop_mse": list(self.open_loop.model_mse),
            "copy_mse": list(self.open_loop.copy_mse),
            "open_loop_normalised": list(self.open_loop.model_normalised),
            "copy_normalised": list(self.open_loop.copy_normalised),
            "open_loop_windows": list(self.open_loop.num_windows),
            "config": to_dict(self.config),
            "versions": self.run_config.versions,
        }


def print_result(summary: Mapping[str, Any], out: Path) -> None:
    """Print what `DemoResult.summary` says came out, and where to read more."""
    config = summary["config"]
    table = Table(title=f"{summary['env']}, learnt from random play alone", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(style="bold")
    table.add_column(style="dim")
    table.add_row(
        "mean return, learnt policy",
        f"{summary['eval_return_mean']:.1f}",
        describe_interval(summary["eval_return_interval"]),
    )
    table.add_row(
        "mean return, random policy", f"{summary['random_return_mean']:.1f}", f"{config['eval_episodes']} episodes"
    )
    table.add_row(
        f"prediction error, {config['horizon']} steps ahead",
        describe_ratio(summary["open_loop_mse"][-1], summary["copy_mse"][-1]),
        "of copying the last observation",
    )
    table.add_row("data", f"{summary['env_steps']:,} steps", f"{summary['num_episodes']:,} random episodes")
    speed = f"{summary['train_steps']:,} steps of {config['model']}"
    table.add_row("training", describe_duration(summary["train_seconds"]), speed)
    print_table(table)
    results.print(f"Numbers: {out / SUMMARY}\nReport:  {out / runs.REPORT}", soft_wrap=True)


def write_report(result: DemoResult, out: Path) -> Path:
    """Write `report.html` and return its path."""
    config, buffer = result.config, result.buffer
    page = Page(
        title=f"{config.env}, learnt from random play alone",
        summary=(
            f"A world model ({config.model}, {result.num_parameters:,} parameters) saw "
            f"{result.num_training_episodes:,} episodes of random actions and nothing else. The policy that it learnt "
            f"in its own imagination then reached a mean return of {result.learnt.mean:.1f} in the real environment, "
            f"where random actions reach {result.random.mean:.1f}."
        ),
        tiles=_tiles(result),
        sections=[
            Section(
                title="Return in the real environment",
                text=f"{config.eval_episodes} episodes each, from the same initial states, which are not in the data.",
                figures=[
                    returns_by_rank({"learnt policy": result.learnt.returns, "random policy": result.random.returns})
                ],
            ),
            *_prediction_sections(result),
            *curves_section(runs.read_metrics(out)),
            configuration_section(
                result.run_config,
                {
                    "parameters": result.num_parameters,
                    "held-out episodes": buffer.num_episodes - result.num_training_episodes,
                    "training time": describe_duration(result.train_seconds),
                },
            ),
        ],
        footer=footer(),
    )
    return write(page, out / runs.REPORT)


def _tiles(result: DemoResult) -> list[Tile]:
    config, open_loop = result.config, result.open_loop
    episodes = f"{config.eval_episodes} episodes"
    return [
        Tile(
            label="Return, learnt policy",
            value=f"{result.learnt.mean:.1f}",
            note=describe_interval(interval_or_none(result.learnt)),
            is_main=True,
        ),
        Tile(label="Return, random policy", value=f"{result.random.mean:.1f}", note=episodes),
        Tile(
            label=f"Error {open_loop.horizon} steps ahead",
            value=describe_ratio(open_loop.model_mse[-1], open_loop.copy_mse[-1]),
            note="of the error of copying",
        ),
        Tile(
            label="Environment steps",
            value=f"{result.buffer.num_transitions:,}",
            note=f"{result.buffer.num_episodes:,} random episodes",
        ),
        Tile(
            label="Training",
            value=describe_duration(result.train_seconds),
            note=f"{config.total_steps:,} steps, batch {config.batch_size} x {config.sequence_length}",
        ),
    ]


def _prediction_sections(result: DemoResult) -> list[Section]:
    open_loop = result.open_loop
    width = open_loop.actual.shape[-1]
    names = _COMPONENTS.get(result.config.env, tuple(f"observation {index}" for index in range(width)))
    context = open_loop.context
    return [
        Section(
            title="Prediction on held-out episodes",
            text=(
                f"The model observes {context} steps of an episode that it was not trained on, then imagines "
                f"{open_loop.horizon} more from the actions alone. Up to {max(open_loop.num_windows):,} windows."
            ),
            figures=[
                open_loop_curves(
                    open_loop.model_mse,
                    open_loop.copy_mse,
                    model_normalised=open_loop.model_normalised,
                    copy_normalised=open_loop.copy_normalised,
                )
            ],
            tables=[horizon_table(open_loop.model_mse, open_loop.copy_mse, open_loop.num_windows)],
        ),
        Section(
            title="Imagined against real trajectories",
            text=(
                f"Some of these windows. The dotted line marks the last observation that the model has seen, step "
                f"{context - 1}."
            ),
            figures=trajectories(open_loop.actual, open_loop.imagined, names=names[:_MAX_COMPONENTS]),
        ),
    ]
