"""`worldline compare`: train several models on one data file, and hold their policies side by side."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldline.cli import runs
from worldline.cli.collect import RANDOM
from worldline.cli.options import (
    Deterministic,
    EnvSettings,
    NumThreads,
    Stochastic,
    check_episodes,
    check_seed,
    parse,
    parse_env_settings,
    parse_settings,
    set_num_threads,
    way_of_acting,
)
from worldline.config import from_dict, to_dict
from worldline.errors import ConfigError, WorldlineError, nearest
from worldline.lock import FolderLock
from worldline.training.config import TrainingConfig

if TYPE_CHECKING:
    from worldline.cli.train import TrainingRun
    from worldline.data.buffer import ReplayBuffer
    from worldline.evaluation.rollout import EvaluationResult

COMPARE_CONFIG = "compare.yaml"
RESULT = "result.json"
SUMMARY = "summary.json"

# How each family is trained unless `--set FAMILY.KEY=VALUE` says otherwise; others as `worldline train` trains them.
RECIPES: dict[str, dict[str, Any]] = {
    # As in the demo
    "dreamerv3": {"batch_size": 8, "sequence_length": 32, "learning_rate": 4e-4, "schedule": "linear"},
    # 256 segments of three steps, as published
    "tdmpc2": {"batch_size": 256, "sequence_length": 4, "learning_rate": 3e-4, "schedule": "constant"},
    # Neighbouring rows say the same twice: single ones
    "bc": {"batch_size": 256, "sequence_length": 1, "learning_rate": 1e-3, "schedule": "linear"},
}
_TRAINING = {field.name for field in dataclasses.fields(TrainingConfig)} - {"seed", "device"}

# Settings that a comparison may be resumed with other values of: what is done already holds for them, or is done anew.
# Of settings, those of a run that was begun are checked with the run.
_FREE = {"models", "settings", "episodes", "eval_seed", "deterministic", "stochastic", "device", "num_threads"}


def _described(recipe: Mapping[str, Any]) -> str:
    return (
        f"{recipe['batch_size']} x {recipe['sequence_length']} rows, learning rate {recipe['learning_rate']:g}, "
        f"{recipe['schedule']}"
    )


_DESCRIPTION = f"""\
Train several models on the same data file, evaluate each of them and a random policy on the same episodes of an
environment, and write one report. The folder --out gets summary.json, report.html, and the run of each model.

Examples:
  worldline compare --data cartpole.npz --env CartPole-v1 --out runs/compare
  worldline compare --data cartpole.npz --env CartPole-v1 --out runs/short --models tdmpc2:1m bc:small --total-steps 500
  worldline compare --data cartpole.npz --env CartPole-v1 --out runs/noisy --set dreamerv3.entropy_scale=1.0
  worldline compare --out runs/compare --resume

Batches of each family:
{chr(10).join(f"  {family}: {_described(recipe)}" for family, recipe in RECIPES.items())}

A comparison that was stopped, or killed, goes on with --resume; models that are trained and evaluated are left as they
are. If one of them fails, the others go on.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Everything that the comparison depends on."""

    data: Path | None = None
    """The data file to learn from, as worldline collect writes it."""
    env: str = ""
    """The environment to evaluate in, such as CartPole-v1 or dmc:walker-walk."""
    env_settings: EnvSettings = ()
    models: tuple[str, ...] = ("dreamerv3:size1m", "tdmpc2:1m", "bc:small")
    """The models, each FAMILY:SIZE (worldline inspect models lists all)."""
    settings: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="FAMILY.KEY=VALUE")
    ] = ()
    """A setting of a family, or of one FAMILY:SIZE, or of its training; may be given several times."""
    total_steps: int = 2000
    """Optimiser steps of each model."""
    episodes: int = 20
    """How many whole episodes to evaluate each policy in."""
    eval_seed: int = 1_000_000
    """Evaluation episode i begins with this seed plus i: far from those that worldline collect takes."""
    deterministic: Deterministic = False
    stochastic: Stochastic = False
    device: str = "auto"
    """Where the models are trained: auto, cpu, cuda, mps."""
    num_threads: NumThreads = 1
    seed: int = 0
    """Of weights and of the order of the data."""

    @property
    def way_of_acting(self) -> bool | None:
        """See `options.way_of_acting`."""
        return way_of_acting(deterministic=self.deterministic, stochastic=self.stochastic)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `worldline compare`."""

    out: Path
    """The folder to write."""
    resume: bool = False
    """Go on with the comparison in --out, if there is one."""
    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=CompareConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model that was trained and evaluated."""

    run_config: runs.RunConfig
    measured: EvaluationResult
    num_parameters: int
    train_seconds: float


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = _parse(arguments)
    from worldline.cli.compare_report import Comparison, finish
    from worldline.cli.terminal import progress
    from worldline.data.buffer import ReplayBuffer

    config, out = options.config, options.out
    assert config.data is not None
    trainings = _trainings(config)
    check_seed(config.seed)
    set_num_threads(config.num_threads)
    buffer = ReplayBuffer.load(config.data)
    _check_environment(config, buffer)
    with FolderLock(out):
        _check_folder(config, out, resume=options.resume)
        contestants: dict[str, Contestant] = {}
        failures: dict[str, str] = {}
        for name, (settings, training) in trainings.items():
            run = _training_run(config, name, settings, training, out, f"worldline compare {shlex.join(arguments)}")
            try:
                contestants[name] = _contest(config, run, buffer)
            except WorldlineError as error:
                failures[name] = str(error)
                progress.print(f"{name} failed: {error}", style="bold red", markup=False, soft_wrap=True)
        comparison = Comparison(
            config=config,
            buffer=buffer,
            contestants=contestants,
            failures=failures,
            random=_random(config, buffer),
        )
        finish(comparison, out)
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(trainings)} models failed: {', '.join(failures)}. Why is said above and in the "
            "report, which has the others. Mend it and go on with --resume, or name other --models."
        )


def folder_of(out: Path, name: str) -> Path:
    """Return the folder of the model `name` of a comparison in `out`."""
    return out / name.replace(":", "-")


def training_of(config: CompareConfig, name: str, given: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Return how the model "family:size" is trained: the recipe of its family, but for what is `given`."""
    family = name.partition(":")[0]
    values = {
        "total_steps": config.total_steps,
        "seed": config.seed,
        "device": config.device,
        **RECIPES.get(family, {}),
        **(given or {}),
    }
    intervals = {
        "log_interval": max(1, int(values["total_steps"]) // 100),
        "save_interval": max(1, int(values["total_steps"]) // 10),
    }
    return from_dict(TrainingConfig, {**intervals, **values}, where=f"--set {family}")


def _trainings(config: CompareConfig) -> dict[str, tuple[dict[str, Any], TrainingConfig]]:
    """Return what `--set` gives each model, and how it is trained, by its full name.

    Raises:
        ConfigError: A model or a setting's family is unknown, does not act, or is named twice.
    """
    from worldline import registry
    from worldline.protocols import Policy

    _ = config.way_of_acting  # refuses contradictions before anything is trained
    check_episodes(config.episodes)
    resolved = [registry.resolve(model) for model in config.models]
    for family, _ in resolved:
        if not issubclass(registry.load(family, family.model), Policy):
            raise ConfigError(
                f"--models takes policies; {family.name} chooses no actions by itself. worldline eval takes commands."
            )
    names = [f"{family.name}:{size}" for family, size in resolved]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--models takes one or more models, each once; got {' '.join(names) or 'none'}.")
    given: dict[str, dict[str, Any]] = {}
    for key, value in parse_settings(config.settings).items():
        target, dot, setting = key.partition(".")
        # A family that is not compared now may have been, and may be again
        if not dot or target.partition(":")[0] not in registry.families():
            raise ConfigError(
                f"--set takes FAMILY.KEY=VALUE, such as bc.units=64; got {key!r}. "
                f"{nearest(target, registry.families())}"
            )
        given.setdefault(target, {})[setting] = value
    found = {}
    for name in names:
        values = {**given.get(name.partition(":")[0], {}), **given.get(name, {})}
        training = {key: value for key, value in values.items() if key in _TRAINING}
        model = {key: value for key, value in values.items() if key not in _TRAINING}
        found[name] = (model, training_of(config, name, training))
    return found


def _training_run(
    config: CompareConfig, name: str, settings: dict[str, Any], training: TrainingConfig, out: Path, command: str
) -> TrainingRun:
    from worldline.cli.train import TrainingRun

    return TrainingRun(
        model=name,
        settings=settings,
        training=training,
        data=config.data,
        out=folder_of(out, name),
        command=command,
        num_threads=config.num_threads,
    )


def _contest(config: CompareConfig, run: TrainingRun, buffer: ReplayBuffer) -> Contestant:
    """Train the model and evaluate it, as far as that is not done.

    Raises:
        WorldlineError: The model cannot be built for the data, does not act, or cannot be trained.
    """
    from worldline.cli.evaluate import evaluate
    from worldline.cli.measured import result_numbers
    from worldline.cli.reporting import write_training_report
    from worldline.cli.terminal import progress
    from worldline.models.base import num_trained
    from worldline.protocols import Policy
    from worldline.training.callbacks import TrainingClock

    model, run_config = run.begin(buffer, resume=True)
    assert isinstance(model, Policy), run.model
    parameters = num_trained(model)
    if finished := _read_result(config, run):
        progress.print(f"{run.model} is trained and evaluated already.")
        return Contestant(run_config=run_config, num_parameters=parameters, **finished)
    progress.print(f"{run.model}: {parameters:,} parameters", soft_wrap=True)
    clock = TrainingClock()
    run.train(model, buffer, [clock])
    write_training_report(run.out, run_config)
    measured = evaluate(
        config.env,
        model,
        num_episodes=config.episodes,
        seed=config.eval_seed,
        deterministic=config.way_of_acting,
        label=f"Evaluating {run.model}",
        env_settings=parse_env_settings(config.env_settings),
    )
    result = {
        "measured_with": _measured_with(config, run),
        **result_numbers(measured),
        "train_seconds": clock.seconds,
    }
    runs.write_text(run.out / RESULT, json.dumps(result, indent=2) + "\n")
    return Contestant(run_config=run_config, num_parameters=parameters, measured=measured, train_seconds=clock.seconds)


def _measured_with(config: CompareConfig, run: TrainingRun) -> dict[str, Any]:
    """Return what a model's returns depend on, besides its weights: the number of steps belongs to these."""
    return {
        "env": config.env,
        "env_settings": list(config.env_settings),
        "episodes": config.episodes,
        "eval_seed": config.eval_seed,
        "deterministic": config.way_of_acting,
        "total_steps": run.training.total_steps,
    }


def _read_result(config: CompareConfig, run: TrainingRun) -> dict[str, Any] | None:
    """Return what `_contest` wrote, if the model is finished and was evaluated as it would be now."""
    from worldline.cli.measured import result_of_numbers

    path = run.out / RESULT
    if not path.is_file() or not (run.out / runs.FINAL / "config.json").is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["measured_with"] != _measured_with(config, run):
            return None
        return {"measured": result_of_numbers(result), "train_seconds": float(result["train_seconds"])}
    except (ValueError, KeyError, TypeError):  # damaged, or of another version: the model is evaluated again
        return None


def _random(config: CompareConfig, buffer: ReplayBuffer) -> EvaluationResult:
    from worldline.cli.evaluate import evaluate
    from worldline.evaluation.rollout import RandomPolicy

    return evaluate(
        config.env,
        RandomPolicy(buffer.spec),
        num_episodes=config.episodes,
        seed=config.eval_seed,
        deterministic=config.way_of_acting,
        label=f"Evaluating {RANDOM}",
        env_settings=parse_env_settings(config.env_settings),
    )


def _check_environment(config: CompareConfig, buffer: ReplayBuffer) -> None:
    """Check that the environment is that of the data, before anything is trained for it."""
    from worldline.device import resolve_device
    from worldline.envs.make import make_env

    resolve_device(config.device)
    env = make_env(config.env, **parse_env_settings(config.env_settings))
    env.close()
    if env.data_spec != buffer.spec:
        raise ConfigError(
            f"The data is of another environment than --env {config.env}: {buffer.spec}, not {env.data_spec}. "
            "Name the one that it was recorded in."
        )


def _check_folder(config: CompareConfig, out: Path, *, resume: bool) -> None:
    """Check that the comparison may be run in `out`, and note its settings there."""
    runs.check_folder(out, resume=resume, config=COMPARE_CONFIG)
    if (out / COMPARE_CONFIG).is_file():
        before = runs.read_config(out / COMPARE_CONFIG, CompareConfig)
        if changes := runs.changed(to_dict(before), to_dict(config), free=_FREE):
            raise ConfigError(
                f"The comparison in {out} was begun differently: {'; '.join(changes)}. Leave these options out, or "
                "choose another --out."
            )
    runs.write_config(out / COMPARE_CONFIG, config)


def _parse(arguments: Sequence[str]) -> CompareOptions:
    """Return the options; those of a resumed comparison that are not given again come from its `compare.yaml`.

    Raises:
        ConfigError: There is no data file, or no environment.
    """
    options = parse(CompareOptions, arguments, command="compare", description=_DESCRIPTION)
    if options.resume and (options.out / COMPARE_CONFIG).is_file():
        given = options.config
        saved = runs.read_config(options.out / COMPARE_CONFIG, CompareConfig)
        blank = dataclasses.replace(saved, settings=(), env_settings=(), deterministic=False, stochastic=False)
        default = dataclasses.replace(options, resume=False, config=blank)
        asked = parse(CompareOptions, arguments, command="compare", description=_DESCRIPTION, default=default)
        way = given if given.deterministic or given.stochastic else saved
        config = dataclasses.replace(
            asked.config,
            settings=_merged(saved.settings, given.settings),
            env_settings=given.env_settings or saved.env_settings,
            deterministic=way.deterministic,
            stochastic=way.stochastic,
        )
        options = dataclasses.replace(asked, resume=True, config=config)
    if options.config.data is None or not options.config.env:
        raise ConfigError("Give the data file with --data FILE, and the environment to evaluate in with --env ENV.")
    return options


def _merged(saved: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Return the settings that were saved, but for those of the same keys that are given."""
    parse_settings(given)  # refuses a key that is given twice
    return tuple({pair.partition("=")[0]: pair for pair in (*saved, *given)}.values())
