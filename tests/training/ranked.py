"""What the processes of `rank_pool.py` do: each function runs in all of them, and returns what a test compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldline.batch import Batch
from worldline.data.buffer import ReplayBuffer
from worldline.ops.masking import masked_mean
from worldline.protocols import ParamGroup
from worldline.training import Callback, CheckpointCallback, Trainer, TrainingConfig

FEATURES = 4


class MaskedModel(nn.Module):
    """Deterministic, with a masked loss, two parameter groups, a parameter that no loss reaches, and two buffers."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(FEATURES, 7)
        self.second = nn.Linear(7, 1)
        self.dropout = nn.Dropout(dropout)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("size", torch.ones(()))  # running mean of what the network gives
        self.register_buffer("updates", torch.zeros(()))
        self.size: Tensor
        self.updates: Tensor

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch.obs, Tensor)
        predicted = self.second(self.dropout(torch.tanh(self.first(batch.obs)))).squeeze(-1).float()
        if self.training:
            self.size.lerp_(masked_mean(predicted.detach().abs(), batch.step_mask), 0.1)
        error = predicted - batch.rewards
        return {
            "loss": masked_mean(error.square(), batch.step_mask),
            "error": masked_mean(error.detach().abs(), batch.step_mask),
        }

    def param_groups(self) -> Sequence[ParamGroup]:
        laprop = {"algorithm": "laprop", "agc": 0.05, "eps": 1e-8}
        return [
            ParamGroup(name="first", params=list(self.first.parameters()), **laprop),  # type: ignore[arg-type]
            ParamGroup(name="second", params=[*self.second.parameters(), self.unused], weight_decay=0.0),
        ]

    @torch.no_grad()
    def after_update(self) -> None:
        self.updates += 1


class Recording(Callback):
    """Keeps the losses, and which windows the model saw."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.windows: list[list[float]] = []

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.losses.append({name: float(value) for name, value in losses.items()})
        batch = self.trainer._latest[1]
        assert batch is not None
        assert isinstance(batch.obs, Tensor)
        self.windows.append(batch.obs[:, 0, 0].tolist())


def make_buffer() -> ReplayBuffer:
    """Return episodes of uneven length, some shorter than a window; the first feature tells every row apart."""
    generator = np.random.default_rng(0)
    buffer = ReplayBuffer(1000, (FEATURES,), 2, action_sizes=())
    row = 0
    for length in (3, 20, 7, 12, 5, 9):
        obs = generator.normal(size=(length + 1, FEATURES)).astype(np.float32)
        obs[:, 0] = (row + np.arange(length + 1)) / 100
        row += length + 1
        buffer.add_episode(
            obs[:-1], generator.normal(size=(length, 2)), obs[:-1, 1:].sum(-1), terminated=True, final_obs=obs[-1]
        )
    return buffer


def make_config(**settings: Any) -> TrainingConfig:
    values: dict[str, Any] = {"total_steps": 8, "batch_size": 16, "sequence_length": 6, "learning_rate": 1e-2}
    return TrainingConfig(**{"device": "cpu", "grad_clip": 0.5, "log_interval": 4, **values, **settings})


def train(
    folder: Path | None = None,
    num_steps: int | None = None,
    dropout: float = 0.0,
    seed_of_rank: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train, from the newest checkpoint in `folder` if there is one, and return what happened."""
    import os

    model = MaskedModel(dropout, seed=int(os.environ["RANK"]) if seed_of_rank else 0)
    recording = Recording()
    saving = [] if folder is None else [CheckpointCallback(folder, save_interval=1000)]
    trainer = Trainer(model, make_config(**settings), [recording, *saving])
    is_begun = folder is not None and any(folder.glob("step_*"))
    trainer.ranks.wait()
    trainer.train(make_buffer(), num_steps, resume_from=folder if is_begun else None)
    return {
        "losses": recording.losses,
        "windows": recording.windows,
        "state": {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()},
        "status": trainer.status,
        "noise": torch.rand(2).tolist(),
    }


def stop(by_rank: int, by_signal: bool, folder: Path) -> dict[str, Any]:
    """Train until one process has had enough after its step 3, or got SIGTERM."""
    import os
    import signal

    from worldline.training import EvaluationCallback

    evaluated: list[int] = []

    def evaluate(model: MaskedModel, step: int) -> dict[str, float]:
        evaluated.append(step)
        return {"size": float(model.size)}

    class Stopping(Callback):
        def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
            if step == 3 and self.trainer.ranks.rank == by_rank:
                if by_signal:
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    self.trainer.request_stop("enough")

    trainer = Trainer(
        MaskedModel(), make_config(), [Stopping(), EvaluationCallback(evaluate), CheckpointCallback(folder)]
    )
    left: int | str | None = None
    try:
        trainer.train(make_buffer())
    except SystemExit as leaving:
        left = leaving.code
    saved = sorted(path.name for path in folder.glob("step_*"))
    return {"step": trainer.step, "status": trainer.status, "left": left, "saved": saved, "evaluated": evaluated}


def evaluate(strategy: Any) -> dict[str, Any]:
    """Evaluate in the middle of training, with the trainer and with a callback."""
    import os

    from worldline.training import EvaluationCallback

    model = MaskedModel()
    evaluated: list[int] = []
    seen: list[dict[str, float]] = []

    def weigh(whole: MaskedModel, step: int) -> dict[str, float]:
        evaluated.append(step)
        return {"weight": np.float32(whole.first.weight.detach().norm())}  # type: ignore[dict-item]

    class Seeing(Callback):
        def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
            seen.append(dict(metrics))

    callbacks = [EvaluationCallback(weigh, interval=4), Seeing()]
    trainer = Trainer(model, make_config(strategy=strategy), callbacks)
    buffer = make_buffer()
    trainer.train(buffer)
    means = trainer.evaluate(buffer, num_batches=2)
    shown = [type(callback).__name__ for callback in trainer.callbacks]
    assert os.environ["RANK"] == str(trainer.ranks.rank)
    return {"evaluated": evaluated, "seen": seen, "means": means, "callbacks": shown, "training": model.training}


class Poisoned:
    """Data with a NaN in the last window of step 2."""

    def __init__(self) -> None:
        self.buffer = make_buffer()
        self.step = 0

    def seek(self, *, seed: int, step: int) -> None:
        self.buffer.seek(seed=seed, step=step)
        self.step = step

    def sample(self, batch_size: int, seq_len: int | None = None, device: str | torch.device = "cpu") -> Batch:
        batch = self.buffer.sample(batch_size, seq_len, device)
        if self.step == 1:
            batch.rewards[-1, 0] = float("nan")
        return batch


def meet_a_nan(folder: Path) -> dict[str, Any]:
    """Train until the loss of one share is NaN."""
    from worldline.errors import NonFiniteError

    model = MaskedModel()
    trainer = Trainer(model, make_config(), [CheckpointCallback(folder)])
    try:
        trainer.train(Poisoned())
    except NonFiniteError as error:
        message = str(error)
    return {"message": message, "step": trainer.step, "updates": float(model.updates)}


def outlive_a_nan(folder: Path, on_anomaly: Any) -> dict[str, Any]:
    """Train although the loss of one share is NaN."""
    model = MaskedModel()
    recording = Recording()
    trainer = Trainer(model, make_config(on_anomaly=on_anomaly), [recording, CheckpointCallback(folder)])
    trainer.train(Poisoned())
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return {"state": state, "anomalies": recording.losses[-1]["anomalies"]}


def ask_the_first() -> list[Any]:
    """Return what `first` and `gather` say."""
    from worldline.errors import FileError
    from worldline.training.distributed import join

    def fail() -> None:
        raise FileError("no such folder")

    ranks = join()
    answers: list[Any] = [ranks.first(lambda: {"rank": ranks.rank, "nan": float("nan")})]
    try:
        ranks.first(fail)
    except FileError as error:
        answers.append(str(error))
    answers.append(ranks.gather({"rank": ranks.rank, "text": "x" * 10 * ranks.rank}))
    return answers


def too_few_windows() -> str:
    """Return what is said of a batch that is smaller than the number of processes."""
    from worldline.errors import ConfigError

    try:
        Trainer(MaskedModel(), make_config(batch_size=1)).train(make_buffer())
    except ConfigError as error:
        return str(error)
    return ""


def train_family(name: str, strategy: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Train a real family for some steps; its noise differs from process to process."""
    from worldline import create_model

    buffer = make_buffer()
    model = create_model(name, obs_shape=(FEATURES,), action_dim=2, action_type="continuous", device="cpu", **settings)
    trainer = Trainer(model, make_config(total_steps=3, strategy=strategy, batch_size=5))
    trainer.train(buffer)
    state = {key: tensor.detach().cpu().numpy() for key, tensor in model.state_dict().items()}
    return {"state": state, "noise": torch.rand(1).item(), "step": trainer.step}


def learn_online(folder: Path, num_steps: int | None = None) -> dict[str, Any]:
    """Collect in environments and learn from what was collected, from the newest checkpoint if there is one."""
    from worldline import create_model
    from worldline.data.online import OnlineSampler
    from worldline.envs.make import make_vec_env
    from worldline.evaluation.rollout import RandomPolicy
    from worldline.training import DataCallback

    envs = make_vec_env("CartPole-v1", 2)
    spec = envs.data_spec
    buffer = ReplayBuffer(1000, spec.obs_shape, spec.action_dim, action_sizes=spec.action_sizes)
    model = create_model(
        "bc:small", obs_shape=spec.obs_shape, action_dim=spec.action_dim, action_type="discrete", device="cpu"
    )
    sampler = OnlineSampler(
        envs,
        model,
        buffer,
        seed_policy=RandomPolicy(spec),
        seed_steps=40,
        replay_ratio=0.25,
        replay_dir=folder / "replay",
    )
    callbacks = [DataCallback(sampler), CheckpointCallback(folder / "checkpoints")]
    trainer = Trainer(model, make_config(total_steps=12), callbacks)
    is_begun = any((folder / "checkpoints").glob("step_*"))
    trainer.ranks.wait()
    trainer.train(sampler, num_steps, resume_from=folder / "checkpoints" if is_begun else None)
    rewards = [float(np.asarray(episode.obs).sum()) for episode in buffer.episodes()]
    return {"episodes": rewards, "state": {k: v.detach().numpy() for k, v in model.state_dict().items()}}


def run_command(arguments: list[str]) -> int:
    """Run the command line."""
    from worldline.cli.main import main

    return main(arguments)


def refuse(**settings: Any) -> str:
    """Return what is said of settings that do not go together."""
    from worldline.errors import ConfigError

    try:
        Trainer(MaskedModel(), make_config(**settings))
    except ConfigError as error:
        return str(error)
    return ""


def renormalise() -> str:
    """Return what is said of a model that does after an update what only whole tensors can do."""
    from worldline.errors import ConfigError

    class Renormalising(MaskedModel):
        @torch.no_grad()
        def after_update(self) -> None:
            self.first.weight.copy_(torch.renorm(self.first.weight, 2, 0, 1.0))

    try:
        Trainer(Renormalising(), make_config(strategy="fsdp")).train(make_buffer())
    except ConfigError as error:
        return str(error)
    return ""


def divide_a_scalar() -> str:
    """Return what is said of a model with a parameter without dimensions."""
    from worldline.errors import ConfigError

    model = MaskedModel()
    model.temperature = nn.Parameter(torch.ones(()))
    try:
        Trainer(model, make_config(strategy="fsdp"))
    except ConfigError as error:
        return str(error)
    return ""


def save_parts(folder: Path, strategy: Any) -> dict[str, Any]:
    """Train a little, and write the weights as torch.distributed.checkpoint does."""
    from worldline.errors import FileError
    from worldline.training.dcp import save_weights

    model = MaskedModel()
    trainer = Trainer(model, make_config(total_steps=3, strategy=strategy))
    trainer.train(make_buffer())
    save_weights(trainer, folder)
    try:
        save_weights(trainer, folder)
    except FileError as error:
        message = str(error)
    return {
        "state": {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()},
        "message": message,
        "shapes": [
            tuple(getattr(part, "to_local", lambda part=part: part)().shape) for part in trainer.parts().values()
        ],
    }
