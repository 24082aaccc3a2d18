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
        predicted = self.second(self.dropout(torch.tanh(self.first(batch.obs)))).squeeze(-1)
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
