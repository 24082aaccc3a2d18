"""What `worldline eval --out` writes: numbers, videos, and a report with success, returns, film strips and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldline.cli import runs
from worldline.cli.evaluate import returns_rows
from worldline.cli.reporting import footer
from worldline.data.buffer import ReplayBuffer
from worldline.episode import Array
from worldline.evaluation.actions import action_errors
from worldline.evaluation.rollout import EvaluationResult
from worldline.evaluation.video import film_strip, write_video
from worldline.protocols import Policy
from worldline.report.figures import returns_by_rank, settings_table
from worldline.report.page import Page, Picture, Section, Table, Tile, write

NUMBERS, VIDEOS = "evaluation.json", "videos"

_MAX_STRIPS = 8
_MAX_RECORDED = 200  # episodes that actions are held against


def write_evaluation(
    out: Path,
    numbers: Mapping[str, Any],
    measured: Mapping[str, EvaluationResult],
    films: Mapping[int, Array],
    errors: Sequence[float] | None,
) -> Path:
    """Write everything into the folder `out` and return the report's path.

    Args:
        out: The folder; what is there of an earlier evaluation is replaced.
        numbers: What `--json` prints.
        measured: What each policy achieved, the model first.
        films: Frames `[T, H, W, 3]` uint8 of episodes, by their seeds.
        errors: `[A]`, how far the actions are from recorded ones; None where there are no records.

    Raises:
        FileError: The folder cannot be written to.
        MissingPackageError: There are films, and PyAV is not installed.
    """
    runs.make_folder(out)
    more = {} if errors is None else {"action_errors": list(errors)}
    runs.write_text(out / NUMBERS, json.dumps({**numbers, **more}, indent=2) + "\n")
    for seed, frames in films.items():
        write_video(out / VIDEOS / f"episode_{seed}.mp4", frames)
    return write(_page(numbers, measured, films, errors), out / runs.REPORT)


def recorded_action_errors(path: Path, policy: Policy) -> list[float]:
    """Return the errors `[A]` of a policy's actions on the first episodes of a data file.

    Raises:
        FileError: There is no such file, or it is damaged.
        DataError: The policy cannot act on its observations.
    """
    episodes = [episode for episode, _ in zip(ReplayBuffer.load(path).episodes(), range(_MAX_RECORDED), strict=False)]
    return [float(error) for error in action_errors(policy, episodes)]


def _page(
    numbers: Mapping[str, Any],
    measured: Mapping[str, EvaluationResult],
    films: Mapping[int, Array],
    errors: Sequence[float] | None,
) -> Page:
    name = str(numbers["model"])
    columns, rows = returns_rows(measured)
    lines = [(policy, *row) for policy, row in zip(measured, rows, strict=True)]
    sections = [
        Section(
            title="What was achieved",
            text=(
                f"{numbers['num_episodes']} episodes each, from the same initial states. The interval of a success "
                "rate is Wilson's, those of means are by bootstrap (by Student's t below ten episodes)."
            ),
            figures=[returns_by_rank({policy: result.returns for policy, result in measured.items()})],
            tables=[Table(title="Episodes", header=("Policy", *map(str.capitalize, columns)), rows=lines)],
        )
    ]
    if films:
        pictures = [_strip(seed, frames, measured[name], int(numbers["seed"])) for seed, frames in films.items()]
        sections.append(Section(title="Episodes in pictures", pictures=pictures[:_MAX_STRIPS]))
    if errors is not None:
        sections.append(_errors_section(errors))
    shown = {key: value for key, value in numbers.items() if key in ("model", "env", "num_episodes", "seed")}
    sections.append(Section(title="Configuration", tables=[settings_table("Evaluation", shown)]))
    return Page(
        title=f"{name} in {numbers['env']}",
        summary=f"Evaluated on {numbers['num_episodes']} episodes.",
        tiles=_tiles(measured[name]),
        sections=sections,
        footer=footer(),
    )


def _tiles(result: EvaluationResult) -> list[Tile]:
    tiles = []
    rate, interval = result.success_rate, result.success_interval95
    if rate is not None and interval is not None:
        note = f"{interval[0]:.1%} to {interval[1]:.1%}"
        tiles.append(Tile(label="Success", value=f"{rate:.1%}", note=note, is_main=True))
    low, high = result.interval95
    tiles.append(Tile(label="Return", value=f"{result.mean:.1f}", note=f"{low:.1f} to {high:.1f}", is_main=not tiles))
    low, high = result.length_interval95
    length = sum(result.lengths) / len(result.lengths)
    tiles.append(Tile(label="Length", value=f"{length:.1f}", note=f"{low:.1f} to {high:.1f}"))
    return tiles


def _strip(seed: int, frames: Array, result: EvaluationResult, first_seed: int) -> Picture:
    number = seed - first_seed
    success = ""
    if result.successes is not None:
        success = ", success" if result.successes[number] else ", no success"
    caption = f"Episode with seed {seed}: {result.lengths[number]} steps, return {result.returns[number]:.1f}{success}."
    return Picture(image=film_strip(frames), caption=caption)


def _errors_section(errors: Sequence[float]) -> Section:
    rows = [(str(component), f"{error:.4f}") for component, error in enumerate(errors)]
    return Section(
        title="Error of each action",
        text=(
            "Mean distance from recorded actions, in units of their range [-1, 1], where the policy sees what was "
            "recorded. It says what was learnt, not whether the policy succeeds."
        ),
        tables=[Table(title="Errors", header=("Component", "Mean absolute error"), rows=rows)],
    )
