"""`simscale train`: train a policy on demonstrations; under torchrun, in several processes."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from simscaleai.training.config import TrainConfig
from worldline.cli.options import check_seed, parse, parse_settings

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader

    from simscaleai.rl.evaluator import EvalResults
    from simscaleai.training.data.dataset import TrajectoryDataset

_DESCRIPTION = """\
Train a policy on demonstrations. Without --dataset it is random numbers, to see that everything works.

Examples:
  simscale train --model bc --dataset data/reach.h5 --max-steps 5000
  simscale train --model bc --dataset data/reach.h5 --max-steps 5000 --resume checkpoints/step_5000.pt
  torchrun --nproc_per_node=4 -m simscaleai.tools.cli train --model vla --max-steps 100000 --batch-size 256
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainConfig):
    """Options of `simscale train`."""

    model_name: Annotated[str, tyro.conf.arg(name="model", help="A model of `simscale list-models`.")] = "bc"
    model_kwargs: Annotated[Mapping[str, Any], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
    dataset_path: Annotated[str, tyro.conf.arg(name="dataset", help="Demonstrations, HDF5 or another format.")] = ""
    resume_from: Annotated[
        str | None, tyro.conf.arg(name="resume", help="A checkpoint to go on from, or a folder of them.")
    ] = None
    settings: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(name="set", metavar="KEY=VALUE", help="An argument of the model, such as hidden_dim=256."),
    ] = ()
    obs_keys: tuple[str, ...] = ()
    """Which observations to learn from; none named means all."""
    held_out: float = 0.1
    """The fraction of the episodes that is evaluated and not learnt from; 0 is none."""
    eval_env: str = ""
    """Also run the policy in this environment at every evaluation."""
    eval_episodes: int = 20
    """How many episodes that takes."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(TrainOptions, arguments, command="train", description=_DESCRIPTION, program="simscale")
    check_seed(options.seed)
    from simscaleai.models.registry import ModelRegistry
    from simscaleai.training.checkpoint import FINAL
    from simscaleai.training.trainer import Trainer
    from worldline.cli.terminal import results
    from worldline.seeding import seed_everything
    from worldline.training.distributed import join

    names = [field.name for field in dataclasses.fields(TrainConfig)]
    config = TrainConfig(**{name: getattr(options, name) for name in names})
    ranks = join()
    data = None
    if options.dataset_path:
        from simscaleai.training.data.dataset import TrajectoryDataset, import_data

        ranks.first(lambda: str(import_data(Path(options.dataset_path))))  # once, not in every process
        data = TrajectoryDataset(options.dataset_path, obs_keys=options.obs_keys or None)
    kwargs = {**_arguments_for(options.model_name, data), **parse_settings(options.settings)}
    config = dataclasses.replace(config, model_kwargs=kwargs)
    seed_everything(config.seed)
    model = ModelRegistry.create(config.model_name, **kwargs)
    train, held_out = _loaders(model, data, options)
    trainer = Trainer(model, train, config, held_out, _evaluation(model, options))
    found = trainer.train()
    if ranks.is_main:
        for name, value in found.items():
            results.print(f"{name:<24}{value:.6g}" if isinstance(value, float) else f"{name:<24}{value}")
        final = shlex.quote(str(Path(config.checkpoint_dir) / FINAL))
        results.print(f"Next: simscale eval {final} --env {options.eval_env or 'ENV'}", soft_wrap=True, markup=False)


def _arguments_for(model: str, data: TrajectoryDataset | None) -> dict[str, Any]:
    """Return what a policy must know of the data: how many numbers, which images, whether there are instructions."""
    from simscaleai.models.registry import is_policy, reads_images
    from worldline.models.inputs import LANGUAGE

    if not is_policy(model):
        return {}
    if data is None:
        return {"state_dim": 20, "action_dim": 4}
    vectors = {key: shape for key, shape in data.obs_shapes.items() if len(shape) < 3 and key != LANGUAGE}
    found: dict[str, Any] = {"action_dim": data.action_dim}
    if vectors:
        found |= {"state_dim": sum(map(math.prod, vectors.values())), "state_keys": sorted(vectors)}
    if reads_images(model):
        images = {key: list(shape[1:]) for key, shape in data.obs_shapes.items() if len(shape) == 3}
        found |= {"image_size": images or 0, **({} if data.has_language else {"language_length": 0})}
    return found


def _loaders(
    model: nn.Module, data: TrajectoryDataset | None, options: TrainOptions
) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
    """Return what is learnt from, and what is evaluated."""
    from torch.utils.data import DataLoader

    from simscaleai.models.imitation import ImitationModel
    from simscaleai.training.data.dataset import DummyTrajectoryDataset
    from worldline.models.inputs import LANGUAGE

    shapes = model.obs_shapes if isinstance(model, ImitationModel) else {}
    settings: dict[str, Any] = {
        "batch_size": options.batch_size,
        "num_workers": options.num_workers,
        "pin_memory": True,
    }
    if data is None:
        image = shapes.get("image")
        dummy = DummyTrajectoryDataset(
            image_size=(128, 128) if image is None else (image[1], image[2]),
            include_image=image is not None,
            include_language=LANGUAGE in shapes,
        )
        return DataLoader(dummy, shuffle=True, **settings), None
    if data.is_at_hand:
        settings["num_workers"] = 0  # `OrderedLoader` would start none: it only saves torch's warning
    whole = data
    if isinstance(model, ImitationModel):
        whole = data.with_windows(model.seq_len, model.windows, include_language=LANGUAGE in shapes)
    if options.held_out == 0 or whole.num_episodes < 2:
        return DataLoader(whole, shuffle=True, **settings), None
    train, held_out = whole.split(options.held_out, seed=options.seed)
    return DataLoader(train, shuffle=True, **settings), DataLoader(held_out, batch_size=options.batch_size)


def _evaluation(model: nn.Module, options: TrainOptions) -> Callable[[Any], EvalResults] | None:
    """Return what runs the model in the environment, which is made here: mistakes are told before training begins."""
    if not options.eval_env:
        return None
    from simscaleai.models.imitation import ImitationModel
    from simscaleai.rl.evaluator import EvalConfig, evaluate_policy
    from simscaleai.sim.environments import make_env

    config = EvalConfig(n_episodes=options.eval_episodes)
    env = make_env(options.eval_env, image_size=model.image_size if isinstance(model, ImitationModel) else None)
    return lambda trained: evaluate_policy(env, trained.predict, config)
