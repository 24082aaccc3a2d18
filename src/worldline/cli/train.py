"""`worldline train`: train a model on a data file, into a run's folder."""

from __future__ import annotations

import dataclasses
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldline.cli import runs
from worldline.cli.options import NumThreads, check_seed, parse, parse_settings, set_num_threads
from worldline.errors import ConfigError
from worldline.training.config import TrainingConfig

if TYPE_CHECKING:
    from worldline.data.buffer import ReplayBuffer
    from worldline.episode import DataSpec
    from worldline.models.base import Model
    from worldline.training.callbacks import Callback

_DESCRIPTION = """\
Train a model on a data file. The folder --out gets config.yaml, metrics.jsonl, checkpoints/, final/ and report.html.

Examples:
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/a --total-steps 1000
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/b --set units=128 --set entropy_scale=1e-3
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/a --total-steps 2000 --resume

A run that was stopped, or killed, goes on with the same command and --resume, and ends with the same weights as if
nothing had happened. Options that are not given again are those of its config.yaml.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `worldline train`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """FAMILY:SIZE, such as dreamerv3:size1m (worldline inspect models lists all), or the folder of a model or a run."""
    data: Path
    """The data file to learn from, as worldline collect writes it."""
    out: Path
    """The run's folder."""
    resume: bool = False
    """Go on with the run in --out, if there is one."""
    settings: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """A setting of the model other than its size gives; may be given several times."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainingConfig)
    num_threads: NumThreads = 0


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options, settings = _parse(arguments)
    from worldline.cli.reporting import write_training_report  # not before --help is answered
    from worldline.cli.terminal import progress, results
    from worldline.data.buffer import ReplayBuffer
    from worldline.models.base import num_trained

    runs.check_folder(options.out, resume=options.resume)
    check_seed(options.training.seed)
    set_num_threads(options.num_threads)
    buffer = ReplayBuffer.load(options.data)
    run = TrainingRun(
        model=options.model,
        settings=settings,
        training=options.training,
        data=options.data,
        out=options.out,
        command=f"worldline train {shlex.join(arguments)}",
        num_threads=options.num_threads,
    )
    model, config = run.begin(buffer, resume=options.resume)
    parameters = num_trained(model)
    progress.print(
        f"{options.model}: {parameters:,} parameters; {options.data}: {buffer.num_transitions:,} steps", soft_wrap=True
    )
    run.train(model, buffer)
    report = write_training_report(options.out, config)
    results.print(
        f"Trained for {options.training.total_steps:,} steps. Model: {options.out / runs.FINAL}\nReport: {report}",
        soft_wrap=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training run in a folder: what `worldline train` and `worldline demo` share."""

    model: str  # "family:size", or a folder
    settings: Mapping[str, Any]  # of the model, beyond its size and what the data says
    training: TrainingConfig
    data: Path
    out: Path
    command: str
    num_threads: int

    def begin(self, buffer: ReplayBuffer, *, resume: bool) -> tuple[Model, runs.RunConfig]:
        """Build the model, and write `config.yaml`, or check it if it is there.

        Raises:
            ConfigError: The model or a setting is unknown, or the run in the folder was begun differently.
        """
        from worldline.config import to_dict

        model = build_model(self.model, buffer.spec, self.settings, seed=self.training.seed)
        config = runs.RunConfig(
            model=self.model,
            model_settings=dict(self.settings),
            model_config=to_dict(model.config),
            training=self.training,
            data=runs.describe_data(
                self.data, num_episodes=buffer.num_episodes, num_transitions=buffer.num_transitions
            ),
            command=self.command,
            versions=runs.versions(),
            num_threads=self.num_threads,
        )
        if resume and (self.out / runs.CONFIG).is_file() and runs.is_begun(self.out):
            saved = runs.read_config(self.out / runs.CONFIG, runs.RunConfig)
            runs.check_resumed(saved, config, out=self.out)
            if (done := runs.steps_done(self.out)) > self.training.total_steps:
                raise ConfigError(
                    f"The run in {self.out} has done {done:,} steps already, more than --total-steps "
                    f"{self.training.total_steps}. Ask for at least as many."
                )
            config = dataclasses.replace(config, command=saved.command)
        runs.write_config(self.out / runs.CONFIG, config)
        if not runs.is_begun(self.out):
            (self.out / runs.METRICS).unlink(missing_ok=True)  # without a line, or without a whole one
        return model, config

    def train(self, model: Model, buffer: ReplayBuffer, callbacks: Sequence[Callback] = ()) -> None:
        """Train from the newest checkpoint there is, and save the final model."""
        from worldline.cli.terminal import progress
        from worldline.training.callbacks import CheckpointCallback, LoggingCallback, ProgressCallback
        from worldline.training.trainer import Trainer

        checkpoints = self.out / runs.CHECKPOINTS
        done = runs.steps_done(self.out)
        callbacks = [LoggingCallback(self.out, console=False), CheckpointCallback(checkpoints), *callbacks]
        with warnings.catch_warnings():
            if done == self.training.total_steps:
                progress.print(f"All {done:,} steps are done already.")
                warnings.filterwarnings("ignore", message="Nothing to train")  # said just now, in the words of a user
            else:
                callbacks.append(ProgressCallback())
            trainer = Trainer(model, self.training, callbacks)
            trainer.train(buffer, resume_from=checkpoints if done else None)
        model.save_pretrained(self.out / runs.FINAL)


def build_model(name: str, spec: DataSpec, settings: Mapping[str, Any], *, seed: int, device: str = "cpu") -> Model:
    """Build the model `name` for data of `spec`, its weights drawn under `seed`; that in a folder is loaded instead.

    Raises:
        ConfigError: The family, the size or a setting is unknown, or a saved model does not fit the data.
        FileError: `name` is a folder without a saved model.
    """
    from worldline.create import create_model
    from worldline.seeding import isolated

    given: dict[str, Any] = {
        "obs_shape": spec.obs_shape,
        "action_dim": spec.action_dim,
        "action_type": spec.action_type,
    }
    if spec.action_type == "multi_discrete":
        given["action_sizes"] = spec.action_sizes
    if (Path(name).expanduser() / runs.CONFIG).is_file():
        name = str(runs.saved_model(Path(name).expanduser()))
    with isolated(seed):
        return create_model(name, device=device, **{**given, **settings})


def _parse(arguments: Sequence[str]) -> tuple[TrainOptions, dict[str, Any]]:
    """Return the options and the model's settings; what a resumed run is not given again is in its `config.yaml`."""
    options = parse(TrainOptions, arguments, command="train", description=_DESCRIPTION)
    settings = parse_settings(options.settings)
    if not (options.resume and (options.out / runs.CONFIG).is_file()):
        return options, settings
    saved = runs.read_config(options.out / runs.CONFIG, runs.RunConfig)
    # A default of True would make tyro offer --no-resume instead of the --resume that was given.
    default = dataclasses.replace(
        options, settings=(), training=saved.training, num_threads=saved.num_threads, resume=False
    )
    resumed = parse(TrainOptions, arguments, command="train", description=_DESCRIPTION, default=default)
    return resumed, {**saved.model_settings, **settings}
