"""A small stochastic model and a seekable sampler, which the tests of training build."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldline.batch import Batch
from worldline.protocols import ParamGroup
from worldline.training.config import TrainingConfig

FEATURES = 4


class TinyModel(nn.Module):
    """A network with dropout and a buffer that follows training, so that resuming has something to get wrong."""

    def __init__(self, seed: int = 0, **group: object) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.register_buffer("updates", torch.zeros(()))
        self.updates: Tensor
        self.group = group

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        error = self.net(batch.obs).squeeze(-1) - batch.rewards  # [B, T]
        loss = error.square().mean()
        return {"loss": loss, "error": error.abs().mean().detach()}

    def param_groups(self) -> Sequence[ParamGroup]:
        return [ParamGroup(name="all", params=list(self.parameters()), **self.group)]  # type: ignore[arg-type]

    def after_update(self) -> None:
        self.updates += 1


class TinySampler:
    """Batches that are functions of (seed, step); `poisoned` steps (0-based) have a NaN in them."""

    def __init__(self, poisoned: Sequence[int] = ()) -> None:
        self.seed, self.step = 0, 0
        self.poisoned = set(poisoned)
        self.drawn: list[int] = []

    def seek(self, *, seed: int, step: int) -> None:
        self.seed, self.step = seed, step

    def sample(self, batch_size: int, seq_len: int | None = None, device: str | torch.device = "cpu") -> Batch:
        batch = make_batch(self.seed * 100_003 + self.step, batch_size, seq_len or 1)
        if self.step in self.poisoned:
            batch.rewards[0, 0] = float("nan")
        self.drawn.append(self.step)
        self.step += 1
        return batch.to(device)


class Unseekable:
    """The same batches from a sampler that cannot seek."""

    def __init__(self, poisoned: Sequence[int] = ()) -> None:
        self.sampler = TinySampler(poisoned)

    def sample(self, batch_size: int, seq_len: int | None = None, device: str | torch.device = "cpu") -> Batch:
        return self.sampler.sample(batch_size, seq_len, device)


def make_batch(seed: int, batch_size: int = 4, length: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(batch_size, length, FEATURES, generator=generator)
    real = torch.ones(batch_size, length, dtype=torch.bool)
    return Batch(
        obs=obs,
        actions=obs[..., :1],
        rewards=obs.sum(-1),
        terminations=~real,
        is_first=~real,
        step_mask=real,
        obs_mask=real,
    )


def make_config(**settings: object) -> TrainingConfig:
    values = {"total_steps": 20, "batch_size": 4, "sequence_length": 3, "learning_rate": 1e-2, "device": "cpu"}
    return TrainingConfig(**{"log_interval": 5, **values, **settings})  # type: ignore[arg-type]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
