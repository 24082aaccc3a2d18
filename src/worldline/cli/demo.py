"""`worldline demo`: collect random episodes, learn from them alone, show how well it worked."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from worldline.cli import runs
from worldline.cli.options import NumThreads, parse, parse_settings, set_num_threads
from worldline.config import from_dict, to_dict
from worldline.errors import ConfigError
from worldline.lock import FolderLock

if TYPE_CHECKING:
    from worldline.cli.demo_report import DemoResult
    from worldline.cli.train import TrainingRun
    from worldline.data.buffer import ReplayBuffer
    from worldline.evaluation.openloop import OpenLoopError
    from worldline.evaluation.rollout import EvaluationResult
    from worldline.models.base import WorldModel

DATA = "data.npz"
DEMO_CONFIG = "demo.yaml"
SUMMARY = "summary.json"

# Demos of different seeds share no episode: demo s collects from s * 1,000,000 on, and evaluates half a million later.
_SEED_STRIDE = 1_000_000
_EVALUATION_OFFSET = 500_000

# Settings that a demo may be resumed with other values of, and those of them that leave its results as they are.
_NO_RESULT = {"log_interval", "save_interval", "device", "num_threads"}
_FREE = _NO_RESULT | {"eval_episodes"}

_DESCRIPTION = """\
Collect random episodes of an environment, train a world model on them alone, and evaluate the policy that it learnt in
imagination in the real environment. The folder --out gets summary.json and report.html, and what a run has.

Examples:
  worldline demo
  worldline demo --seed 1 --out runs/demo1
  worldline demo --resume

A demo that was stopped, or killed, goes on with --resume; one that is finished shows its result again.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Everything that the demo's result depends on."""

    env: str = "CartPole-v1"
    """A Gymnasium id."""
    num_episodes: int = 10_000
    """How many random episodes to collect."""
    held_out: float = 0.1
    """Fraction of them that is kept from training, to measure predictions on."""
    model: str = "dreamerv3:size1m"
    """FAMILY:SIZE of a world model."""
    settings: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = (
        # Thousands of times the reference's. Random play never reaches the ends of the track, so that a policy that is
        # certain may lean to one side for nothing. One that stays noisy while it learns finds every lean dangerous:
        # its likeliest actions keep the pole upright.
        "entropy_scale=1.0",
    )
    """A setting of the model other than its size gives; may be given several times."""
    total_steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 8
    """Windows in a batch."""
    sequence_length: int = 32
    """Rows of a window."""
    learning_rate: float = 4e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises to its peak."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How it falls after that, to nothing at the end, so that the policy settles."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the loss; weights stay float32."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    num_threads: NumThreads = (
        1  # the operations are small: a second thread waits more than it works, ten times so on a busy CPU
    )
    eval_episodes: int = 20
    """Episodes to evaluate each policy in."""
    context: int = 5
    """Rows that the model observes before it predicts."""
    horizon: int = 15
    """Steps that it predicts."""
    num_windows: int = 512
    """Held-out windows to predict."""
    log_interval: int = 20
    """Steps between two lines of the log."""
    save_interval: int = 100
    """Steps between two checkpoints."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        # What is only needed after minutes of training is checked now.
        least = {"num_episodes": 2, "eval_episodes": 1, "context": 2, "horizon": 1, "num_windows": 1}
        for name, count in least.items():
            if getattr(self, name) < count:
                raise ConfigError(f"{name} must be at least {count}; got {getattr(self, name)}.")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must be between 0 and 1, both excluded; got {self.held_out}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of `worldline demo`."""

    out: Path = Path("runs/demo")
    """The folder to write."""
    resume: bool = False
    """Go on with the demo in --out, if there is one."""
    config: Annotated[DemoConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=DemoConfig)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = _parse(arguments)
    from worldline.cli.demo_report import print_result, write_report  # loads torch: not before --help is answered
    from worldline.cli.terminal import progress

    config, out = options.config, options.out
    if options.resume and (finished := read_finished(config, out)):
        print_result(finished, out)
        progress.print(
            f"This demo was finished before. To begin anew, remove {out} or choose another --out.", soft_wrap=True
        )
        return
    with FolderLock(out):
        result = run_demo(config, out, resume=options.resume, command=f"worldline demo {shlex.join(arguments)}".strip())
        write_report(result, out)
        runs.write_text(out / SUMMARY, json.dumps(result.summary(), indent=2) + "\n")
        print_result(result.summary(), out)


def read_finished(config: DemoConfig, out: Path) -> dict[str, Any] | None:
    """Return what `summary.json` holds if the demo in `out` is finished and `config` would give the same result."""
    if not all((out / name).is_file() for name in (DEMO_CONFIG, SUMMARY, runs.REPORT)):
        return None
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        made_with = from_dict(DemoConfig, summary["config"], where=str(out / SUMMARY))
    except (ValueError, KeyError, TypeError, ConfigError):  # damaged, or of another version: it is written again
        return None
    before, now = to_dict(made_with), to_dict(config)
    return summary if all(before[key] == now[key] for key in now if key not in _NO_RESULT) else None


def run_demo(config: DemoConfig, out: Path, *, resume: bool, command: str) -> DemoResult:
    """Collect, train and measure in the folder `out`; what is done already is not done again.

    Raises:
        ConfigError: A setting cannot be used, or the demo in the folder was begun differently.
        FileError: The folder cannot be used.
    """
    from worldline.cli.demo_report import DemoResult
    from worldline.models.base import WorldModel, num_trained
    from worldline.training.callbacks import TrainingClock

    began = time.perf_counter()
    set_num_threads(config.num_threads)
    run = _training_run(config, out, command)
    _check_model(config)
    _check_folder(config, out, resume=resume)
    buffer = _collected(config, out)
    train_data, test_data = buffer.split(config.held_out, seed=config.seed)
    model, run_config = run.begin(buffer, resume=resume)
    assert isinstance(model, WorldModel)
    _predicted(config, model, test_data)  # as after training: windows that cannot be used are told of now
    clock = TrainingClock()
    run.train(model, train_data, [clock])
    learnt, random = _evaluated(config, model, buffer)
    return DemoResult(
        config=config,
        run_config=run_config,
        buffer=buffer,
        num_training_episodes=train_data.num_episodes,
        num_parameters=num_trained(model),
        learnt=learnt,
        random=random,
        open_loop=_predicted(config, model, test_data),
        train_seconds=clock.seconds,
        total_seconds=time.perf_counter() - began,
    )


def _parse(arguments: Sequence[str]) -> DemoOptions:
    """Return the options; those of a resumed demo that are not given again come from its `demo.yaml`."""
    options = parse(DemoOptions, arguments, command="demo", description=_DESCRIPTION)
    usual = DemoConfig().settings
    given = options.config.settings[len(usual) :]  # the option appends to its default
    if not (options.resume and (options.out / DEMO_CONFIG).is_file()):
        return _with_settings(options, usual, given)
    saved = runs.read_config(options.out / DEMO_CONFIG, DemoConfig)
    default = dataclasses.replace(options, resume=False, config=dataclasses.replace(saved, settings=()))
    asked = parse(DemoOptions, arguments, command="demo", description=_DESCRIPTION, default=default)
    resumed = _with_settings(dataclasses.replace(asked, resume=True), saved.settings, given)
    _tell_of_defaults(resumed.config, resumed.out)
    return resumed


def _with_settings(options: DemoOptions, before: Sequence[str], given: Sequence[str]) -> DemoOptions:
    """Return the options with the settings `before`, but for those of the same keys that are `given`."""
    parse_settings(given)  # refuses a key that is given twice
    pairs = {pair.partition("=")[0]: pair for pair in (*before, *given)}
    return dataclasses.replace(options, config=dataclasses.replace(options.config, settings=tuple(pairs.values())))


def _tell_of_defaults(config: DemoConfig, out: Path) -> None:
    """Say which settings of a resumed demo are not the defaults: these may have changed since it was begun."""
    from worldline.cli.terminal import progress

    defaults, values = to_dict(DemoConfig()), to_dict(config)
    if others := [f"{key} {values[key]}" for key in values if values[key] != defaults[key]]:
        progress.print(f"Of {out / DEMO_CONFIG}, other than the defaults: {', '.join(others)}.", soft_wrap=True)


def _training_run(config: DemoConfig, out: Path, command: str) -> TrainingRun:
    from worldline.cli.train import TrainingRun
    from worldline.training.config import TrainingConfig

    shared = {field.name for field in dataclasses.fields(TrainingConfig)}
    values = {name: value for name, value in to_dict(config).items() if name in shared}
    return TrainingRun(
        model=config.model,
        settings=parse_settings(config.settings),
        training=from_dict(TrainingConfig, values),
        data=out / DATA,
        out=out,
        command=command,
        num_threads=config.num_threads,
    )


def _check_model(config: DemoConfig) -> None:
    """Check device, environment and model before minutes are spent on collecting for them."""
    import torch

    from worldline.cli.train import build_model
    from worldline.device import resolve_device
    from worldline.envs.make import make_env
    from worldline.models.base import WorldModel

    resolve_device(config.device)
    env = make_env(config.env)
    env.close()
    with torch.device("meta"):  # shapes only
        model = build_model(
            config.model, env.data_spec, parse_settings(config.settings), seed=config.seed, device="meta"
        )
    if not isinstance(model, WorldModel):
        raise ConfigError(f"The demo needs a world model; {config.model} is none. Use dreamerv3:size1m.")
    if not model.decodes:
        raise ConfigError(
            f"The demo shows what a model predicts, and {config.model} cannot turn its states into observations. Use "
            "dreamerv3:size1m, or worldline train and eval."
        )


def _check_folder(config: DemoConfig, out: Path, *, resume: bool) -> None:
    """Check that the demo may be run in `out`, and note its settings there."""
    runs.check_folder(out, resume=resume, config=DEMO_CONFIG)
    if (out / DEMO_CONFIG).is_file() and (out / DATA).is_file():
        before = runs.read_config(out / DEMO_CONFIG, DemoConfig)
        if changes := runs.changed(to_dict(before), to_dict(config), free=_FREE):
            raise ConfigError(
                f"The demo in {out} was begun differently: {'; '.join(changes)}. Leave these options out, or choose "
                "another --out."
            )
    runs.write_config(out / DEMO_CONFIG, config)


def _collected(config: DemoConfig, out: Path) -> ReplayBuffer:
    """Return the random episodes, collected now unless the file is there."""
    from worldline.cli.collect import collect
    from worldline.data.buffer import ReplayBuffer

    path = out / DATA
    if not path.is_file():
        collect(config.env, num_episodes=config.num_episodes, seed=config.seed * _SEED_STRIDE).save(path)
    return ReplayBuffer.load(path)


def _evaluated(
    config: DemoConfig, model: WorldModel, buffer: ReplayBuffer
) -> tuple[EvaluationResult, EvaluationResult]:
    """Return what the learnt and a random policy achieve in the same environments."""
    from worldline.cli.evaluate import evaluate
    from worldline.evaluation.rollout import RandomPolicy

    learnt, random = (
        evaluate(
            config.env,
            policy,
            num_episodes=config.eval_episodes,
            seed=config.seed * _SEED_STRIDE + _EVALUATION_OFFSET,
            deterministic=True,
            label=f"Evaluating the {name} policy",
        )
        for name, policy in (("learnt", model), ("random", RandomPolicy(buffer.spec)))
    )
    return learnt, random


def _predicted(config: DemoConfig, model: WorldModel, test_data: ReplayBuffer) -> OpenLoopError:
    """Return the open-loop error on windows of the held-out episodes."""
    from worldline.evaluation.openloop import open_loop_error

    test_data.seek(seed=config.seed, step=0)
    device = next(model.parameters()).device
    windows = test_data.sample(config.num_windows, config.context + config.horizon, device)
    return open_loop_error(
        model, [windows], context=config.context, horizon=config.horizon, num_examples=3, seed=config.seed
    )
