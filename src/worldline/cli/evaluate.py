"""`worldline eval`: run a trained model in an environment and hold it against random actions."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldline.cli.options import (
    Command,
    Deterministic,
    EnvSettings,
    NumThreads,
    Stochastic,
    check_episodes,
    check_seed,
    parse,
    set_num_threads,
)
from worldline.errors import ConfigError

if TYPE_CHECKING:
    from worldline.episode import Array, Episode
    from worldline.evaluation.rollout import Environment, EvaluationResult
    from worldline.protocols import Policy

_FILM_SIZE = 256  # pixels

_DESCRIPTION = """\
Run a trained model in an environment and hold it against random actions.

Examples:
  worldline eval runs/cartpole --env CartPole-v1 --episodes 20
  worldline eval runs/cartpole/final --env CartPole-v1 --json
  worldline eval runs/reach --env robot:reach --episodes 200 --out evaluations/reach --videos 4
  worldline eval runs/lunar --env LunarLander-v3 --env-set continuous=true --command 200 250
  worldline eval runs/lunar --env LunarLander-v3 --env-set continuous=true --command 100 400 --shield runs/shield \\
      --data held_out.npz --out evaluations/lunar --videos 3
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
    shield: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A shield for the model's commands: the folder of its run, or of a saved one. It is held against no shield, and
    against commands clipped to the data."""
    alpha: float | None = None
    """Calibrate the shield with half of --data, so that it flags this share of what they support: 0.05 to notice what
    is unusual, 0.5 for projections well within the data. By default it keeps its own threshold; without one, 0.05."""
    episodes: int = 20
    """How many whole episodes to run."""
    seed: int = 1_000_000
    """Episode i begins with this seed plus i: far from those that worldline collect takes."""
    deterministic: Deterministic = False
    stochastic: Stochastic = False
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, mps."""
    num_threads: NumThreads = 0
    json: bool = False
    """Print one JSON object instead of tables."""
    out: Path | None = None
    """A folder for evaluation.json, report.html and the videos."""
    videos: int = 0
    """How many episodes to film, from the first; they go into the folder --out."""
    data: Path | None = None
    """Recorded episodes, which nothing was trained on, for the report: how far the policy's actions are from those
    recorded; or, of a model that obeys commands, what commands of these episodes lead to, and how often a shield is
    wrong about them."""
    num_commands: int = 5
    """How many commands of --data to tell a model that obeys, --episodes each; 0 for none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """What is kept of an evaluation's first episodes, by their seeds."""

    num_filmed: int
    frames: dict[int, Array] = dataclasses.field(default_factory=dict)  # [T + 1, H, W, 3] uint8
    episodes: dict[int, Episode] = dataclasses.field(default_factory=dict)  # the first one


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(EvalOptions, arguments, command="eval", description=_DESCRIPTION)
    check_seed(options.seed)
    check_episodes(options.episodes)
    _check_outputs(options)
    # These load torch: not before --help is answered.
    from worldline.cli.evaluate_report import write_evaluation
    from worldline.cli.evaluate_run import measure
    from worldline.cli.measured import obedience_table, returns_table
    from worldline.cli.terminal import print_table

    set_num_threads(options.num_threads)
    evaluation = measure(options)
    if options.out is not None:
        write_evaluation(options.out, evaluation)
    if options.json:
        print(json.dumps(evaluation.numbers(), indent=2))
        return
    measured = evaluation.measured
    print_table(returns_table(f"{options.env}, {options.episodes} episodes", measured))
    if options.command is not None:
        print_table(obedience_table(options.command, measured[evaluation.name]))
    if len(measured) > 1:
        print_table(evaluation.paired.table())


def _check_outputs(options: EvalOptions) -> None:
    if options.videos < 0 or options.videos > options.episodes:
        raise ConfigError(f"--videos must be between 0 and the {options.episodes} episodes; got {options.videos}.")
    if options.num_commands < 0:
        raise ConfigError(f"--num-commands must be at least 0; got {options.num_commands}.")
    if options.out is None and (options.videos or options.data is not None):
        raise ConfigError("--videos and --data are for the report: add --out, the folder that it goes into.")
    if options.alpha is not None and (options.shield is None or options.data is None):
        raise ConfigError("--alpha calibrates the shield: add --shield, --data with episodes to do so, and --out.")


def evaluate(
    env_id: str,
    actor: Policy,
    *,
    num_episodes: int,
    seed: int,
    deterministic: bool | None,
    label: str,
    env_settings: Mapping[str, Any] | None = None,
    recording: Recording | None = None,
) -> EvaluationResult:
    """Run `actor` in the environment, made with `env_settings`, with a progress bar, and fill the `recording`.

    `deterministic` is as `evaluate_policy` has it.
    """
    from worldline.cli.terminal import episode_progress
    from worldline.envs.make import make_env
    from worldline.evaluation.rollout import evaluate_policy
    from worldline.evaluation.video import filming

    settings = dict(env_settings or {})
    make: Callable[[], Environment] = functools.partial(make_env, env_id, **settings)
    if recording is not None and recording.num_filmed > 0:
        shown = {"render_mode": "rgb_array", "image_size": _FILM_SIZE, **settings}
        if settings.get("observe", "state") != "state":  # the size of what is observed is that of all pictures
            shown["image_size"] = settings.get("image_size", 64)
        make = filming(
            functools.partial(make_env, env_id, **shown),
            recording.frames.__setitem__,
            seeds=range(seed, seed + recording.num_filmed),
        )
    with episode_progress(label, num_episodes) as show:

        def on_episode(episode: Episode) -> None:
            show(episode)
            if recording is not None and episode.meta["seed"] == seed:
                recording.episodes[seed] = episode

        return evaluate_policy(
            make,
            actor,
            num_episodes=num_episodes,
            seed=seed,
            deterministic=deterministic,
            on_episode=on_episode,
        )
