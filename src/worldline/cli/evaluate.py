"""`worldline eval`: run a trained model in an environment and hold it against random actions."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldline.cli.collect import RANDOM, open_policy
from worldline.cli.options import (
    Command,
    EnvSettings,
    NumThreads,
    check_seed,
    parse,
    parse_env_settings,
    set_num_threads,
)
from worldline.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from worldline.episode import Array
    from worldline.evaluation.rollout import Environment, EvaluationResult
    from worldline.protocols import Policy

_FILM_SIZE = 256  # pixels
_MAX_NAME = 24  # letters of a policy's name that a table has room for in one line

_DESCRIPTION = """\
Run a trained model in an environment and hold it against random actions.

Examples:
  worldline eval runs/cartpole --env CartPole-v1 --episodes 20
  worldline eval runs/cartpole/final --env CartPole-v1 --json
  worldline eval runs/reach --env robot:reach --episodes 200 --out evaluations/reach --videos 4
  worldline eval runs/lunar --env LunarLander-v3 --env-set continuous=true --command 200 250 --stochastic
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of `worldline eval`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The folder of a run (its final model, or else its newest checkpoint) or of a saved model; random; or expert."""
    env: str
    """An environment, such as CartPole-v1 or dmc:walker-walk."""
    env_settings: EnvSettings = ()
    command: Command = None
    episodes: int = 20
    """How many whole episodes to run."""
    seed: int = 1_000_000
    """Episode i begins with this seed plus i: far from those that worldline collect takes."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely ones."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, mps."""
    num_threads: NumThreads = 0
    json: bool = False
    """Print one JSON object instead of a table."""
    out: Path | None = None
    """A folder for evaluation.json, report.html and the videos."""
    videos: int = 0
    """How many episodes to film, from the first; they go into the folder --out."""
    data: Path | None = None
    """Recorded episodes: the report then says how far the policy's actions are from those recorded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Films:
    """What the first episodes of an evaluation look like."""

    num_wanted: int
    frames: dict[int, Array] = dataclasses.field(default_factory=dict)  # seed -> [T + 1, H, W, 3] uint8


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(EvalOptions, arguments, command="eval", description=_DESCRIPTION)
    from worldline.cli.terminal import print_table
    from worldline.envs.make import make_env  # loads Gymnasium: not before --help is answered

    check_seed(options.seed)
    _check_outputs(options)
    set_num_threads(options.num_threads)
    env_settings = parse_env_settings(options.env_settings)
    env = make_env(options.env, **env_settings)
    env.close()
    names = dict.fromkeys([options.model, RANDOM])
    actors = {
        name: open_policy(
            name,
            env,
            env_id=options.env,
            command=options.command if name == options.model else None,
            device=options.device,
        )
        for name in names
    }
    films = Films(num_wanted=options.videos)
    measured = {
        name: evaluate(
            options.env,
            actor,
            films=films if name == options.model else None,
            num_episodes=options.episodes,
            seed=options.seed,
            deterministic=not options.stochastic,
            label=f"Evaluating {name}",
            env_settings=env_settings,
        )
        for name, actor in actors.items()
    }
    numbers = _as_json(options, measured)
    if options.out is not None:
        from worldline.cli.evaluate_report import recorded_action_errors, write_evaluation

        errors = None if options.data is None else recorded_action_errors(options.data, actors[options.model])
        write_evaluation(options.out, numbers, measured, films.frames, errors)
    if options.json:
        print(json.dumps(numbers, indent=2))
    else:
        print_table(returns_table(f"{options.env}, {options.episodes} episodes", measured))
        if options.command is not None:
            print_table(obedience_table(options.command, measured[options.model]))


def _check_outputs(options: EvalOptions) -> None:
    if options.videos < 0 or options.videos > options.episodes:
        raise ConfigError(f"--videos must be between 0 and the {options.episodes} episodes; got {options.videos}.")
    if options.out is None and (options.videos or options.data is not None):
        raise ConfigError("--videos and --data are for the report: add --out, the folder that it goes into.")


def evaluate(
    env_id: str,
    actor: Policy,
    *,
    num_episodes: int,
    seed: int,
    deterministic: bool,
    label: str,
    env_settings: Mapping[str, Any] | None = None,
    films: Films | None = None,
) -> EvaluationResult:
    """Run `actor` in the environment, made with `env_settings`, with a progress bar, and fill `films`."""
    from worldline.cli.terminal import episode_progress
    from worldline.envs.make import make_env
    from worldline.evaluation.rollout import evaluate_policy
    from worldline.evaluation.video import filming

    settings = dict(env_settings or {})
    make: Callable[[], Environment] = functools.partial(make_env, env_id, **settings)
    if films is not None and films.num_wanted > 0:
        shown = {"render_mode": "rgb_array", "image_size": _FILM_SIZE, **settings}
        if settings.get("observe", "state") != "state":  # the size of what is observed is that of all pictures
            shown["image_size"] = settings.get("image_size", 64)
        make = filming(
            functools.partial(make_env, env_id, **shown),
            films.frames.__setitem__,
            seeds=range(seed, seed + films.num_wanted),
        )
    with episode_progress(label, num_episodes) as on_episode:
        return evaluate_policy(
            make,
            actor,
            num_episodes=num_episodes,
            seed=seed,
            deterministic=deterministic,
            on_episode=on_episode,
        )


def interval_or_none(result: EvaluationResult) -> list[float] | None:
    """Return the 95% interval of the mean as JSON knows it: None where a single episode has none."""
    return list(result.interval95) if all(map(math.isfinite, result.interval95)) else None


def result_numbers(result: EvaluationResult) -> dict[str, Any]:
    """Return what a policy achieved as JSON has it; null where it cannot be said."""
    success, length = result.success_interval95, result.length_interval95
    return {
        "success_rate": result.success_rate,
        "success_interval95": None if success is None else list(success),
        "return_mean": result.mean,
        "return_std": result.std,
        "return_interval95": interval_or_none(result),
        "length_mean": statistics.fmean(result.lengths),
        "length_interval95": list(length) if all(map(math.isfinite, length)) else None,
        "returns": list(result.returns),
        "lengths": list(result.lengths),
        "successes": None if result.successes is None else list(result.successes),
    }


def _as_json(options: EvalOptions, measured: dict[str, EvaluationResult]) -> dict[str, Any]:
    return {
        "model": options.model,
        "env": options.env,
        "num_episodes": options.episodes,
        "seed": options.seed,
        "deterministic": not options.stochastic,
        **result_numbers(measured[options.model]),
        "random_return_mean": measured[RANDOM].mean,
        "random_success_rate": measured[RANDOM].success_rate,
        "command": None if options.command is None else dict(zip(("steps", "return"), options.command, strict=True)),
    }


def returns_table(title: str, measured: Mapping[str, EvaluationResult]) -> Table:
    """Return the table of what each policy achieved."""
    from rich.table import Table

    table = Table(title=title)
    # A narrow terminal breaks headers before names and intervals.
    longest = max(map(len, measured), default=0)
    table.add_column("policy", overflow="fold", no_wrap=longest <= _MAX_NAME)
    header, rows = returns_rows(measured)
    for name in header:
        table.add_column(name, justify="right", no_wrap=name.endswith("interval"))
    for name, row in zip(measured, rows, strict=True):
        table.add_row(name, *row)
    return table


def obedience_table(command: tuple[float, float], result: EvaluationResult) -> Table:
    """Return the table of what was told and what was done."""
    from rich.table import Table

    from worldline.evaluation.statistics import mean_interval95

    table = Table(title="Told and done")
    for name in ("", "told", "mean done", "95% interval", "mean distance"):
        table.add_column(name, justify="right" if name else "left")
    for name, told, done in (("steps", command[0], result.lengths), ("return", command[1], result.returns)):
        low, high = mean_interval95(done)
        table.add_row(
            name,
            f"{told:.1f}",
            f"{statistics.fmean(done):.1f}",
            f"{low:.1f} to {high:.1f}" if math.isfinite(low) else "-",
            f"{statistics.fmean(abs(value - told) for value in done):.1f}",
        )
    return table


def returns_rows(measured: Mapping[str, EvaluationResult]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a table of what policies achieved, as text.

    Where the environment speaks of success, that comes first, and the spread of the returns gives way to it.
    """
    columns = [_columns(result) for result in measured.values()]
    names = ["mean return", "std", "95% interval", "min", "max", "mean length"]
    if any(result.successes is not None for result in measured.values()):
        names = ["success", "its interval", "mean return", "95% interval", "mean length"]
    return names, [[column[name] for name in names] for column in columns]


def _columns(result: EvaluationResult) -> dict[str, str]:
    interval, rate, success = interval_or_none(result), result.success_rate, result.success_interval95
    return {
        "success": "-" if rate is None else f"{rate:.1%}",
        "its interval": "-" if success is None else f"{success[0]:.1%} to {success[1]:.1%}",
        "mean return": f"{result.mean:.1f}",
        "std": f"{result.std:.1f}",
        "95% interval": f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "-",
        "min": f"{min(result.returns):.1f}",
        "max": f"{max(result.returns):.1f}",
        "mean length": f"{statistics.fmean(result.lengths):.1f}",
    }
