"""What `worldline eval --out` writes: numbers, videos, and a report with success, returns, film strips and errors."""

from __future__ import annotations

import json
from pathlib import Path

from worldline.cli import runs
from worldline.cli.collect import RANDOM
from worldline.cli.evaluate_run import Evaluation
from worldline.cli.measured import finite_or_none, interval_or_none, interval_text, returns_rows
from worldline.cli.reporting import footer
from worldline.cli.terminal import describe_interval
from worldline.evaluation.rollout import EvaluationResult
from worldline.evaluation.statistics import wilson_interval
from worldline.evaluation.video import film_strip, side_by_side, write_video
from worldline.report.figures import returns_by_rank, settings_table
from worldline.report.page import Page, Picture, Section, Table, Tile, write

NUMBERS, VIDEOS = "evaluation.json", "videos"

_MAX_STRIPS = 8


def write_evaluation(out: Path, evaluation: Evaluation) -> Path:
    """Write everything into the folder `out` and return the report's path; what is there of an earlier one is replaced.

    Raises:
        FileError: The folder cannot be written to.
        MissingPackageError: There are films, and PyAV is not installed.
    """
    runs.make_folder(out)
    runs.write_text(out / NUMBERS, json.dumps(evaluation.numbers(), indent=2) + "\n")
    for seed in evaluation.recordings[evaluation.name].frames:
        films = [recording.frames[seed] for recording in evaluation.recordings.values()]
        write_video(out / VIDEOS / f"episode_{seed}.mp4", films[0] if len(films) == 1 else side_by_side(*films))
    return write(_page(evaluation), out / runs.REPORT)


def _page(evaluation: Evaluation) -> Page:
    options, measured = evaluation.options, evaluation.measured
    columns, rows = returns_rows(measured)
    lines = [(policy, *row) for policy, row in zip(measured, rows, strict=True)]
    shielded = f" The policy {evaluation.name} is {options.model} with its shield." if options.shield else ""
    coloured = [name for name in measured if name != RANDOM] or list(measured)
    sections = [
        Section(
            title="What was achieved",
            text=(
                f"{options.episodes} episodes each, from the same initial states.{shielded} The interval of a rate is "
                "Wilson's, those of means are by bootstrap (by Student's t below ten episodes)."
            ),
            figures=[
                returns_by_rank({name: result.returns for name, result in measured.items()}, num_coloured=len(coloured))
            ],
            tables=[Table(title="Episodes", header=("Policy", *map(str.capitalize, columns)), rows=lines)],
        )
    ]
    if evaluation.paired.pairings:
        sections.append(evaluation.paired.section())
    sections += [section for extra in evaluation.extras for section in extra.sections]
    if pictures := _strips(evaluation):
        sections.append(Section(title="Episodes in pictures", pictures=pictures))
    shown = {"model": options.model, "env": options.env, "num_episodes": options.episodes, "seed": options.seed}
    if options.command is not None:
        shown["command"] = f"{options.command[0]:g} steps, return {options.command[1]:g}"
    if options.shield is not None:
        shown["shield"] = str(options.shield)
        shown["alpha"] = "as it was saved" if evaluation.alpha is None else evaluation.alpha
    shown["actions"] = "the likeliest" if evaluation.deterministic else "sampled"
    sections.append(Section(title="Configuration", tables=[settings_table("Evaluation", shown)], is_folded=True))
    return Page(
        title=f"{options.model} in {options.env}",
        summary=f"Evaluated on {options.episodes} episodes.",
        tiles=_tiles(measured[evaluation.name]),
        sections=sections,
        footer=footer(),
    )


def _tiles(result: EvaluationResult) -> list[Tile]:
    tiles = []
    if (rate := result.success_rate) is not None:
        note = interval_text(result.success_interval95, ".1%")
        tiles.append(Tile(label="Success", value=f"{rate:.1%}", note=note, is_main=True))
    note = describe_interval(interval_or_none(result))
    tiles.append(Tile(label="Return", value=f"{result.mean:.1f}", note=note, is_main=not tiles))
    length = sum(result.lengths) / len(result.lengths)
    note = describe_interval(finite_or_none(result.length_interval95))
    tiles.append(Tile(label="Length", value=f"{length:.1f}", note=note))
    if result.crashes is not None:
        crashed, num = sum(result.crashes), len(result.crashes)
        note = interval_text(wilson_interval(crashed, num), ".1%")
        tiles.append(Tile(label="Crash", value=f"{crashed / num:.1%}", note=note))
    return tiles


def _strips(evaluation: Evaluation) -> list[Picture]:
    """Return the filmed episodes, those of the same seed one after the other."""
    first = evaluation.options.seed
    names = list(evaluation.recordings)
    seeds = sorted(evaluation.recordings[evaluation.name].frames)[: _MAX_STRIPS // len(names)]
    return [
        Picture(
            image=film_strip(evaluation.recordings[name].frames[seed]),
            caption=f"Episode with seed {seed}{f', {name}' if len(names) > 1 else ''}: "
            f"{_ending(evaluation.measured[name], seed - first)}.",
        )
        for seed in seeds
        for name in names
    ]


def _ending(result: EvaluationResult, number: int) -> str:
    """Return how an episode ended."""
    text = f"{result.lengths[number]} steps, return {result.returns[number]:.1f}"
    if result.outcomes:
        named = [name for name, values in result.outcomes.items() if values[number]]
        return ", ".join([text, *named])
    if result.successes is not None:
        return text + (", success" if result.successes[number] else ", no success")
    return text
