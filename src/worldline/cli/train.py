"""`worldline train`: train a model on a data file, in an environment, or both, into a run's folder."""

from __future__ import annotations

import dataclasses
import os
import shlex
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldline.cli import online, runs
from worldline.cli.options import NumThreads, parse, parse_settings, set_num_threads
from worldline.cli.training_data import open_data
from worldline.errors import ConfigError
from worldline.lock import FolderLock
from worldline.training.config import TrainingConfig, fast_dev_config

if TYPE_CHECKING:
    from worldline.data.sampling import EpisodeSampler
    from worldline.episode import DataSpec
    from worldline.models.base import Model
    from worldline.protocols import Sampler
    from worldline.training.callbacks import Callback
    from worldline.training.trainer import Trainer

_DESCRIPTION = """\
Train a model on a data file, or online in an environment, or on the one and then in the other. The folder --out gets
config.yaml, metrics.jsonl, checkpoints/, final/ and report.html; replay/ too, if episodes are collected.

Examples:
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/a --total-steps 1000
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/b --set units=128 --set entropy_scale=1e-3
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/a --total-steps 2000 --resume
  worldline train dreamerv3:size1m --env CartPole-v1 --env-steps 20000 --replay-ratio 0.25 --out runs/c
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/d --fast-dev-run

A run that was stopped, or killed, goes on with the same command and --resume, and ends with the same weights as if
nothing had happened. Options that are not given again are those of its config.yaml.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `worldline train`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """FAMILY:SIZE, such as dreamerv3:size1m (worldline inspect models lists all), or the folder of a model or a run."""
    out: Path
    """The run's folder."""
    data: Path | None = None
    """Data to learn from, of any format that worldline convert reads; beyond 2 GB it is mapped from the disk."""
    held_out: float = 0.0
    """Share of the episodes of --data not to learn from, such as 0.1: their losses are logged at every evaluation, as
    eval/loss and so on. If they rise while the others fall, the data is learnt by heart."""
    resume: bool = False
    """Go on with the run in --out, if there is one."""
    settings: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """A setting of the model other than its size gives; may be given several times."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainingConfig)
    online: Annotated[online.OnlineConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=online.OnlineConfig
    )
    num_threads: NumThreads = 0
    limit_steps: int = 0
    """End after so many more optimiser steps; --resume goes on. 0 trains to the end."""
    profile: bool = False
    """Profile a few steps: a trace for chrome://tracing in profile/, and a table of the slowest operators."""
    fast_dev_run: bool = False
    """Only see that everything works: a few steps, with evaluation, checkpoints and report, and nothing is kept."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and "--resume" not in arguments:
        arguments = [*arguments, "--resume"]  # torchrun has started this process again
    options, settings = parse_arguments(arguments)
    from worldline.cli.terminal import progress, results  # not before --help is answered
    from worldline.training.distributed import join

    ranks = join()
    progress.quiet = results.quiet = not ranks.is_main
    ranks.first(lambda: runs.check_folder(options.out, resume=options.resume))
    set_num_threads(options.num_threads)
    command = f"worldline train {shlex.join(arguments)}"
    if not options.fast_dev_run:
        lock = FolderLock(options.out)
        ranks.first(lock.acquire)
        try:
            results.print(_train(options, settings, command), soft_wrap=True)
        finally:
            lock.release()
        return
    with tempfile.TemporaryDirectory(prefix="worldline-") as folder:
        _train(_shortened(options, Path(folder)), settings, command)
    results.print(
        "Everything works: data, training, evaluation, checkpoints, report. Nothing was kept.", soft_wrap=True
    )


def _train(options: TrainOptions, settings: Mapping[str, Any], command: str) -> str:
    """Train as the options say, write the report, and return what to tell the user."""
    from worldline.cli.reporting import write_training_report
    from worldline.cli.terminal import progress
    from worldline.models.base import num_trained
    from worldline.training.callbacks import ProfilerCallback
    from worldline.training.distributed import join

    buffer = open_data(options.data, options.online, options.out)
    run = TrainingRun(
        model=options.model,
        settings=settings,
        training=options.training,
        data=options.data,
        out=options.out,
        command=command,
        num_threads=options.num_threads,
        online=options.online if options.online.env else None,
        held_out=options.held_out,
    )
    model, config = run.begin(buffer, resume=options.resume)
    parameters = num_trained(model)
    sources = [f"{options.data}: {buffer.num_transitions:,} steps"] if options.data else []
    sources += [f"{options.online.env}: {options.online.env_steps:,} steps"] if options.online.env else []
    progress.print(f"{options.model}: {parameters:,} parameters; {'; '.join(sources)}", soft_wrap=True)
    callbacks = [ProfilerCallback(options.out)] if options.profile else []
    done = run.train(model, buffer, callbacks, limit_steps=options.limit_steps)
    if not join().is_main:
        return ""
    report = write_training_report(options.out, config)
    total = options.training.total_steps
    if done < total:
        return f"Trained {done:,} of {total:,} steps. Go on with the same command and --resume.\nReport: {report}"
    return f"Trained for {total:,} steps. Model: {options.out / runs.FINAL}\nReport: {report}"


def _shortened(options: TrainOptions, out: Path) -> TrainOptions:
    """Return the options of a run of a few steps in the folder `out`, in which everything happens."""
    training, collecting = fast_dev_config(options.training), options.online
    if collecting.env:
        collecting = online.shortened(collecting, num_steps=training.total_steps)
        training = dataclasses.replace(training, total_steps=collecting.total_steps)
    return dataclasses.replace(options, out=out, training=training, online=collecting, resume=False, limit_steps=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training run in a folder: what `worldline train` and `worldline demo` share."""

    model: str  # "family:size", or a folder
    settings: Mapping[str, Any]  # of the model, beyond its size and what the data says
    training: TrainingConfig
    data: Path | runs.DataFile | None  # the file, or what it is recognised by
    out: Path
    command: str
    num_threads: int
    online: online.OnlineConfig | None = None
    held_out: float = 0.0  # share of the episodes that is not learnt from

    def build(self, buffer: EpisodeSampler) -> tuple[Model, runs.RunConfig]:
        """Build the model, and say what the run depends on.

        Raises:
            ConfigError: The model or a setting is unknown.
        """
        from worldline.config import to_dict

        model = build_model(self.model, buffer.spec, self.settings, seed=self.training.seed)
        data = self.data
        if isinstance(data, Path):
            data = runs.describe_data(data, num_episodes=buffer.num_episodes, num_transitions=buffer.num_transitions)
        return model, runs.RunConfig(
            model=self.model,
            model_settings=dict(self.settings),
            model_config=to_dict(model.config),
            training=self.training,
            data=data,
            online=self.online,
            command=self.command,
            versions=runs.versions(),
            num_threads=self.num_threads,
            held_out=self.held_out,
        )

    def begin(self, buffer: EpisodeSampler, *, resume: bool) -> tuple[Model, runs.RunConfig]:
        """Build the model, and write `config.yaml`, or check it if it is there.

        Raises:
            ConfigError: The model or a setting is unknown, or the run in the folder was begun differently.
        """
        from worldline.training.distributed import join

        model, config = self.build(buffer)
        command = join().first(lambda: self._write_config(config, resume=resume))
        return model, dataclasses.replace(config, command=command)

    def _write_config(self, config: runs.RunConfig, *, resume: bool) -> str:
        """Write `config.yaml`, or check it if it is there; return the command that began the run."""
        if resume and (self.out / runs.CONFIG).is_file() and runs.is_begun(self.out):
            saved = runs.read_config(self.out / runs.CONFIG, runs.RunConfig)
            runs.check_resumed(saved, config, out=self.out)
            if (done := runs.steps_done(self.out)) > self.training.total_steps:
                asked = f"--total-steps {self.training.total_steps}"
                if self.online is not None:
                    asked = f"the {self.training.total_steps:,} of --env-steps {self.online.env_steps}"
                raise ConfigError(
                    f"The run in {self.out} has done {done:,} steps already, more than {asked}. Ask for at least as "
                    "many."
                )
            config = dataclasses.replace(config, command=saved.command)
        runs.write_config(self.out / runs.CONFIG, config)
        if not runs.is_begun(self.out):
            (self.out / runs.METRICS).unlink(missing_ok=True)  # without a line, or without a whole one
        return config.command

    def train(
        self, model: Model, buffer: EpisodeSampler, callbacks: Sequence[Callback] = (), *, limit_steps: int = 0
    ) -> int:
        """Train from the newest checkpoint there is, and save the final model; return how many steps are done.

        With `limit_steps`, training ends after so many steps, and there is no final model before the last one. With
        `ema_decay` the final model, which `model` is then, has the averaged weights; the last ones are saved beside it.
        """
        from worldline.cli.terminal import progress
        from worldline.training.callbacks import CheckpointCallback, ProgressCallback
        from worldline.training.distributed import join
        from worldline.training.trainer import Trainer

        checkpoints = self.out / runs.CHECKPOINTS
        ranks = join()
        done = ranks.first(lambda: runs.steps_done(self.out))
        data, logging, more = self._open_data(model, buffer)
        callbacks = [logging, CheckpointCallback(checkpoints), *more, *callbacks]
        with warnings.catch_warnings():
            if done == self.training.total_steps:
                progress.print(f"All {done:,} steps are done already.")
                warnings.filterwarnings("ignore", message="Nothing to train")  # said just now, in the words of a user
            else:
                callbacks.append(ProgressCallback())
            trainer = Trainer(model, self.training, callbacks)
            num_steps = min(limit_steps, self.training.total_steps - done) if limit_steps else None
            trainer.train(data, num_steps, checkpoints if done else None)
        if ranks.is_main and (trainer.step >= self.training.total_steps or trainer.status == "stopped"):
            self._save_final(model, trainer)
        return trainer.step

    def _save_final(self, model: Model, trainer: Trainer[Model]) -> None:
        from worldline.models.base import load_weights, read_pretrained

        final = self.out / runs.FINAL
        with trainer.averaged_weights():
            model.save_pretrained(final)
        if self.training.ema_decay is not None:
            model.save_pretrained(self.out / runs.UNAVERAGED)
            load_weights(model, read_pretrained(final).tensors, where=str(final))

    def _open_data(self, model: Model, buffer: EpisodeSampler) -> tuple[Sampler, Callback, list[Callback]]:
        """Return what is trained on, what logs it, and the callbacks that evaluate, or that online data needs."""
        from worldline.data.buffer import ReplayBuffer
        from worldline.training.callbacks import DataCallback, EvaluationCallback, HeldOutCallback, LoggingCallback
        from worldline.training.distributed import join

        if self.online is None:
            logging = LoggingCallback(self.out, console=False)
            if not self.held_out:
                return buffer, logging, []
            learnt_from, held_out = buffer.split(self.held_out, seed=self.training.seed)
            return learnt_from, logging, [HeldOutCallback(held_out)]
        if self.training.strategy == "fsdp" and not join().is_alone:
            raise ConfigError("With --env, every process acts with the whole model. Use --strategy ddp.")
        assert isinstance(buffer, ReplayBuffer)
        sampler = online.open_sampler(self.online, model, buffer, seed=self.training.seed, out=self.out)
        callbacks: list[Callback] = [DataCallback(sampler)]
        if self.online.eval_episodes:
            callbacks.append(EvaluationCallback(online.make_evaluation(self.online, sampler)))
        return sampler, LoggingCallback(self.out, console=False, measure=sampler.metrics), callbacks


def build_model(name: str, spec: DataSpec, settings: Mapping[str, Any], *, seed: int, device: str = "cpu") -> Model:
    """Build the model `name` for data of `spec`, its weights drawn under `seed`; that in a folder is loaded instead.

    Raises:
        ConfigError: The family, the size or a setting is unknown, or a saved model does not fit the data.
        FileError: `name` is a folder without a saved model.
    """
    from worldline import registry
    from worldline.create import create_model
    from worldline.seeding import isolated

    given: dict[str, Any] = {
        "obs_shape": spec.obs_shape,
        "action_dim": spec.action_dim,
        "action_type": spec.action_type,
    }
    if spec.action_type == "multi_discrete":
        given["action_sizes"] = spec.action_sizes
    folder = Path(name).expanduser()
    if (folder / runs.CONFIG).is_file() or (folder.is_dir() and not registry.is_known(name)):
        name = str(runs.saved_model(folder))
    with isolated(seed):
        return create_model(name, device=device, **{**given, **settings})


def parse_arguments(arguments: Sequence[str]) -> tuple[TrainOptions, dict[str, Any]]:
    """Return the options, checked, and the model's settings.

    Raises:
        ConfigError: There is nothing to learn from, the number of steps is given twice, or options exclude others.
    """
    options, settings = _given(arguments)
    if options.limit_steps < 0:
        raise ConfigError(f"--limit-steps must be at least 0; got {options.limit_steps}.")
    if not 0 <= options.held_out < 1:
        raise ConfigError(f"--held-out is a share of the episodes, such as 0.1, or 0; got {options.held_out}.")
    if options.online.env and options.held_out:
        raise ConfigError("--held-out is for data that is there: give --data, and leave out --env.")
    if options.online.env and options.training.overfit_batches:
        raise ConfigError("--overfit-batches needs data that is there: give --data, and leave out --env.")
    if not options.online.env:
        if options.data is None:
            raise ConfigError("There is nothing to learn from. Give --data FILE, or --env ENV and --env-steps N.")
        if options.online != online.OnlineConfig():
            raise ConfigError("Settings of online learning were given without --env. Name an environment.")
        return options, settings
    online.check(options.online)
    total_steps = options.online.total_steps
    if options.training.total_steps not in (TrainingConfig().total_steps, total_steps):
        raise ConfigError(
            f"With --env, --env-steps and --replay-ratio decide the optimiser steps ({total_steps:,}). Leave out "
            "--total-steps."
        )
    training = dataclasses.replace(options.training, total_steps=total_steps)
    return dataclasses.replace(options, training=training), settings


def _given(arguments: Sequence[str]) -> tuple[TrainOptions, dict[str, Any]]:
    """Return the options and the model's settings; what a resumed run is not given again is in its `config.yaml`."""
    options = parse(TrainOptions, arguments, command="train", description=_DESCRIPTION)
    settings = parse_settings(options.settings)
    if not (options.resume and (options.out / runs.CONFIG).is_file()):
        return options, settings
    saved = runs.read_config(options.out / runs.CONFIG, runs.RunConfig)
    # A default of True would make tyro offer --no-resume instead of the --resume that was given; likewise of others.
    default = dataclasses.replace(
        options,
        settings=(),
        data=Path(saved.data.path) if saved.data and options.data is None else options.data,
        training=_without_total(saved),
        online=dataclasses.replace(saved.online, env_settings=()) if saved.online else online.OnlineConfig(),
        num_threads=saved.num_threads,
        held_out=saved.held_out,
        resume=False,
        profile=False,
        fast_dev_run=False,
    )
    resumed = parse(TrainOptions, arguments, command="train", description=_DESCRIPTION, default=default)
    if saved.online and not resumed.online.env_settings:
        resumed = dataclasses.replace(
            resumed, online=dataclasses.replace(resumed.online, env_settings=saved.online.env_settings)
        )
    inherited = saved.model_settings if resumed.model == saved.model else {}  # another one is refused later, by name
    return resumed, {**inherited, **settings}


def _without_total(saved: runs.RunConfig) -> TrainingConfig:
    """Return a run's training settings; online, the number of steps follows from those of the environment."""
    if saved.online is None:
        return saved.training
    return dataclasses.replace(saved.training, total_steps=TrainingConfig().total_steps)
