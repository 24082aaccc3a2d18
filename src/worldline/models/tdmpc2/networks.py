"""The networks of TD-MPC2, and how they are joined and read."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from worldline.episode import is_channels_first
from worldline.models.tdmpc2.config import TDMPC2Config
from worldline.models.tdmpc2.policy import PolicyHead
from worldline.nn.normed import NormedLinear, NormedMLP
from worldline.ops.norm import simplicial_norm
from worldline.ops.twohot import symexp, symlog, symlog_bins, twohot_mean

_SIDE = 64  # pixels of the images that the published network sees
_CONVS = ((7, 2), (5, 2), (3, 2), (3, 1))  # (kernel, stride)
_GRID = 4  # what they leave of 64 pixels


class ImageNetwork(nn.Module):
    """Images to features: four convolutions with ReLU between them, over 64 x 64 pixels.

    Images of other sizes are resized. In training mode every image is shifted by up to `image_shift` pixels, the
    border repeated (Yarats et al. 2021).
    """

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__()
        self.names = list(config.images)
        self.first = {name: is_channels_first(shape) for name, shape in config.images.items()}
        channels = sum(shape[0] if self.first[name] else shape[2] for name, shape in config.images.items())
        width = config.image_channels
        self.convs = nn.ModuleList(
            nn.Conv2d(width if index else channels, width, kernel, stride)
            for index, (kernel, stride) in enumerate(_CONVS)
        )
        self.features = width * _GRID**2
        self.shift = config.image_shift

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Map images `[N, *obs]` to features `[N, F]`."""
        parts = [obs[name] if self.first[name] else obs[name].permute(0, 3, 1, 2) for name in self.names]
        x = torch.cat([part.float() / 255 if part.dtype == torch.uint8 else part.float() for part in parts], 1)
        if x.shape[-2:] != (_SIDE, _SIDE):
            x = F.interpolate(x, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        if self.training and self.shift:
            x = random_shift(x, torch.randint(2 * self.shift + 1, (2, len(x)), device=x.device) - self.shift)
        x = x - 0.5
        for index, conv in enumerate(self.convs):
            x = conv(F.relu(x) if index else x)
        return x.flatten(1).float()


def random_shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Shift `images [N, C, H, W]` by `offsets [2, N]` rows and columns, repeating the border."""
    num, channels, height, width = images.shape
    assert offsets.shape == (2, num), f"offsets {tuple(offsets.shape)} for images {tuple(images.shape)}"
    rows = (torch.arange(height, device=images.device) + offsets[0, :, None]).clamp_(0, height - 1)  # [N, H]
    columns = (torch.arange(width, device=images.device) + offsets[1, :, None]).clamp_(0, width - 1)  # [N, W]
    shifted = images.gather(2, rows[:, None, :, None].expand(num, channels, height, width))
    return shifted.gather(3, columns[:, None, None, :].expand(num, channels, height, width))


class Encoder(nn.Module):
    """Observations to latent states on simplices.

    Vectors go through an MLP and images through convolutions, as published. Images whose features are not as many as
    the latent state has, and vectors and images together (which the published encoder cannot take), are joined by one
    linear layer with layer norm.
    """

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__()
        self.vectors = list(config.vectors)
        self.simplex = config.simplex
        size = sum(config.vectors.values()) + config.embedding_dim
        self.image: ImageNetwork | None = None
        self.vector: NormedMLP | None = None
        self.hidden: NormedLinear | None = None
        self.join: NormedLinear | None = None
        if not config.images:
            self.vector = NormedMLP(
                size, config.encoder_units, config.encoder_layers, config.latent, simplex=config.simplex
            )
            return
        self.image = ImageNetwork(config)
        features = self.image.features
        if size:
            self.hidden = NormedLinear(size, config.encoder_units)
            features += config.encoder_units
        if features != config.latent or size:
            self.join = NormedLinear(features, config.latent, simplex=config.simplex)

    def forward(self, obs: dict[str, Tensor], embedding: Tensor | None) -> Tensor:
        """Return latent states `[N, L]` of observations with leaves `[N, *obs]` and `embedding [N, task]` or None."""
        parts = [obs[name].flatten(1).float() for name in self.vectors]
        if embedding is not None:
            parts.append(embedding)
        if self.image is None:
            assert self.vector is not None
            latent: Tensor = self.vector(torch.cat(parts, -1))
            return latent
        features = [self.image(obs)]
        if self.hidden is not None:
            features.append(self.hidden(torch.cat(parts, -1)))
        joined = torch.cat(features, -1)
        return simplicial_norm(joined, self.simplex) if self.join is None else self.join(joined)


class QEnsemble(nn.Module):
    """E networks from latent state and action to the logits of a two-hot value."""

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__()
        size = config.latent + config.action_dim + config.embedding_dim
        self.members = nn.ModuleList(
            NormedMLP(size, config.units, 3, config.num_bins, dropout=config.dropout, zero_output=True)
            for _ in range(config.num_q)
        )

    def forward(self, x: Tensor, *, which: Sequence[int] | Tensor | None = None, frozen: bool = False) -> Tensor:
        """Map `x [..., D]` to logits `[E, ..., K]` of the members `which` (all by default).

        `frozen` keeps gradients from the parameters, not from `x`.
        """
        if isinstance(which, Tensor):
            return self._gathered(x, which, frozen=frozen)
        chosen = range(len(self.members)) if which is None else which
        return torch.stack([self.members[index](x, frozen=frozen) for index in chosen])

    def _gathered(self, x: Tensor, which: Tensor, *, frozen: bool) -> Tensor:
        """Return the logits of members whose numbers `which [E]` stay on their device, from copies of their weights."""
        members = [dict(member.named_parameters()) for member in self.members]
        chosen = {name: torch.stack([member[name] for member in members])[which] for name in members[0]}
        rows = [{name: tensor[row] for name, tensor in chosen.items()} for row in range(len(which))]
        return torch.stack([functional_call(self.members[0], row, (x,), {"frozen": frozen}) for row in rows])


class Networks(nn.Module):
    """All networks, and what is between them."""

    bins: Tensor
    discounts: Tensor
    action_mask: Tensor

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__()
        self.symlog_limit = config.symlog_limit
        latent, units, width = config.latent, config.units, config.embedding_dim
        self.encoder = Encoder(config)
        self.dynamics = NormedMLP(latent + config.action_dim + width, units, 3, latent, simplex=config.simplex)
        self.reward = NormedMLP(latent + config.action_dim + width, units, 3, config.num_bins, zero_output=True)
        self.termination = NormedMLP(latent + width, units, 3, 1) if config.episodic else None
        self.policy = PolicyHead(config)
        self.q = QEnsemble(config)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False).eval()
        self.task_embedding: nn.Parameter | None = None
        if config.num_tasks:
            self.task_embedding = nn.Parameter(torch.empty(config.num_tasks, config.task_dim).uniform_(-0.02, 0.02))
            columns = torch.arange(config.action_dim)
            mask = torch.stack([columns < dim for dim in config.task_action_dims])
            self.register_buffer("action_mask", mask, persistent=False)
        self.register_buffer("bins", symlog_bins(config.num_bins, config.symlog_limit), persistent=False)
        self.register_buffer("discounts", torch.tensor(config.discounts), persistent=False)

    def train(self, mode: bool = True) -> Networks:
        """Set the mode of everything but the target networks, which never drop anything."""
        super().train(mode)
        self.target_q.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.bins.device

    def latents(self, obs: dict[str, Tensor], task: Tensor | None) -> Tensor:
        """Return the encoded observations, `[N, L]`; leaves `[N, *obs]`, `task [N]` or None."""
        latent: Tensor = self.encoder(obs, None if task is None else self._embedding(task))
        return latent

    def joined(self, *parts: Tensor, task: Tensor | None) -> Tensor:
        """Return what a network sees: `[..., D]` of every part and the embedding of `task`, side by side.

        The shape of `task` is that of the parts without the last dimension, of which leading ones may be missing.
        """
        if task is not None:
            embedding = self._embedding(task)
            parts = (parts[0], embedding.expand(*parts[0].shape[:-1], -1), *parts[1:])
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def read(self, logits: Tensor) -> Tensor:
        """Return the scalar `[...]` that two-hot `logits [..., K]` stand for."""
        return symexp(twohot_mean(torch.softmax(logits, -1), self.bins))

    def coded(self, scalars: Tensor) -> Tensor:
        """Return scalars on the scale of the bins, any shape."""
        return symlog(scalars).clamp(-self.symlog_limit, self.symlog_limit)

    def mask_of(self, task: Tensor | None) -> Tensor | None:
        """Return which actions `task [...]` has, `[..., A]` bool; None for a model of one task."""
        return None if task is None else self.action_mask[task]

    def discount_of(self, task: Tensor | None) -> Tensor:
        """Return the discount, `[]`, or that of every `task [...]`."""
        return self.discounts[0] if task is None else self.discounts[task]

    def pair(self, *, deterministic: bool) -> list[int] | Tensor:
        """Return two members of the ensemble, at random; drawn on the CPU, so that no device is waited for.

        The compiler would take numbers for constant, and compile again for every other pair: it gets a tensor on the
        networks' device.
        """
        num = len(self.q.members)
        if deterministic or num == 2:
            return [0, 1]
        if torch.compiler.is_compiling():
            return torch.randperm(num, device=self.device)[:2]
        chosen: list[int] = torch.randperm(num, device="cpu")[:2].tolist()
        return chosen

    def _embedding(self, task: Tensor) -> Tensor:
        assert self.task_embedding is not None
        return self.task_embedding[task]
