"""TD-MPC2: a world model without a decoder, that plans in its latent space."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from worldline.batch import Batch, Obs
from worldline.config import from_dict
from worldline.errors import ConfigError, DataError
from worldline.models.base import Trajectory, WorldModel
from worldline.models.observations import blank, named_obs
from worldline.models.tdmpc2 import official
from worldline.models.tdmpc2.acting import ActorState, plan, reset
from worldline.models.tdmpc2.config import TDMPC2Config
from worldline.models.tdmpc2.networks import Encoder, QEnsemble
from worldline.models.tdmpc2.policy import PolicyHead
from worldline.models.tdmpc2.segments import Segments, batch_tasks, cut
from worldline.nn.normed import NormedMLP
from worldline.ops.distributions import bernoulli_loss
from worldline.ops.masking import masked_mean
from worldline.ops.twohot import symexp, symlog, symlog_bins, twohot_loss, twohot_mean
from worldline.protocols import ParamGroup


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Latent states with free leading dimensions."""

    latent: Tensor  # [..., L]
    task: Tensor | None = None  # [...] integer; None for a model of one task

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Return the state with `function` applied to every tensor."""
        return State(latent=function(self.latent), task=None if self.task is None else function(self.task))


class TDMPC2(WorldModel):
    """The encoder, the dynamics, the heads, the policy prior and the ensemble of values."""

    family: ClassVar[str] = "tdmpc2"
    bins: Tensor
    value_range: Tensor
    value_levels: Tensor
    discounts: Tensor
    action_mask: Tensor

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__(config)
        self.config: TDMPC2Config = config
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
        self.register_buffer("value_levels", torch.tensor([0.05, 0.95]), persistent=False)
        # Running distance of the 5th from the 95th percentile of values, at least 1
        self.register_buffer("value_range", torch.ones(()))
        self.loss_scales = {
            "consistency": config.consistency_scale,
            "reward": config.reward_scale,
            "value": config.value_scale,
            "policy": 1.0,
        } | ({"termination": config.termination_scale} if config.episodic else {})

    @classmethod
    def from_official(cls, path: str | os.PathLike[str], **settings: Any) -> TDMPC2:
        """Load a checkpoint of the official implementation, in either of its layouts, in evaluation mode.

        Every dimension is inferred from the shapes; nothing in the file but tensors is read. What shapes do not tell is
        as published: the length of an episode (and so the discount), the simplices' size, the bins' range. So are the
        tasks' numbers of actions in the older layout; all tasks have all of them, unless `task_action_dims` says.

        Args:
            path: The file.
            **settings: Fields of `TDMPC2Config` that are to differ.

        Raises:
            FileError: The file cannot be read, or is something else.
            DataError: Its tensors are not those of one model.
            ConfigError: `settings` are not those of the model.
        """
        tensors = official.read_checkpoint(path)
        config = from_dict(TDMPC2Config, {**official.infer_settings(tensors), **settings}, where=str(path))
        model = cls(config)
        official.load_official(model, tensors, where=str(path))
        return model.eval()

    def export_official(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint that the official implementation reads, in its present layout.

        Raises:
            DataError: The official implementation cannot build such a model (discrete actions, mixed observations).
            FileError: The file cannot be written.
        """
        official.write_checkpoint(official.to_official(self), path)

    def train(self, mode: bool = True) -> TDMPC2:
        """Set the mode of everything but the target networks, which never drop anything."""
        super().train(mode)
        self.target_q.eval()
        return self

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return three groups: the encoder, at a lower rate; the other world model; the policy.

        The first two are clipped together.
        """
        config = self.config
        policy, encoder = list(self.policy.parameters()), list(self.encoder.parameters())
        known = {id(parameter) for parameter in (*policy, *encoder)}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        clip = config.max_grad_norm
        return [
            ParamGroup(
                name="encoder",
                params=encoder,
                lr_scale=config.encoder_lr_scale,
                weight_decay=0.0,
                max_grad_norm=clip,
                clipped_with="world_model",
            ),
            ParamGroup(
                name="world_model", params=rest, weight_decay=0.0, max_grad_norm=clip, clipped_with="world_model"
            ),
            ParamGroup(name="policy", params=policy, eps=1e-5, weight_decay=0.0, max_grad_norm=clip),
        ]

    @torch.no_grad()
    def after_update(self) -> None:
        """Move the target networks a step towards the values, and keep task embeddings within the unit ball."""
        target: list[Tensor] = list(self.target_q.parameters())
        online: list[Tensor] = list(self.q.parameters())
        torch._foreach_lerp_(target, online, self.config.target_rate)
        if self.task_embedding is not None:
            self.task_embedding.copy_(torch.renorm(self.task_embedding, 2, 0, 1.0))

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" and, detached, its terms and statistics of the policy.

        In training mode the running range of values is updated. Noise comes from torch's default generator.
        """
        return self.loss_of_segments(cut(batch, self.config), deterministic=False)

    def loss_of_segments(
        self, segments: Segments, *, deterministic: bool, pair: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of segments; `deterministic` takes the policy's modes, `pair` says which two Qs count."""
        elements, metrics = self.loss_elements(segments, deterministic=deterministic, pair=pair)
        assert elements.keys() == self.loss_scales.keys(), (sorted(elements), sorted(self.loss_scales))
        terms = {name: masked_mean(*element) for name, element in elements.items()}
        loss = torch.stack([self.loss_scales[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss} | {name: value.detach() for name, value in (terms | metrics).items()}

    def loss_elements(
        self, segments: Segments, *, deterministic: bool, pair: Sequence[int] | None = None
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
        """Return every loss element by element with the mask of those that count (`[H, N]`), and metrics."""
        config, task = self.config, segments.tasks
        horizon = len(segments.rewards)
        decay = config.rho ** torch.arange(horizon + 1, device=self.bins.device)[:, None]  # [H + 1, 1]
        elements: dict[str, tuple[Tensor, Tensor]] = {}

        # Targets: what was observed next, and what it is worth
        with torch.no_grad():
            following = {name: value[1:].flatten(0, 1) for name, value in segments.obs.items()}
            repeated = None if task is None else task.repeat(horizon)
            was_training = self.training
            next_latents = self.latents(following, repeated).unflatten(0, (horizon, -1))
            targets = self.td_targets(segments, next_latents, deterministic=deterministic, pair=pair)

        # World model
        latents = self.rollout(segments)  # [H + 1, N, L]
        error = (latents[1:] - next_latents).square().mean(-1)
        elements["consistency"] = error * decay[:-1], segments.next_mask
        inputs = self.joined(latents[:-1], segments.actions, task=task)
        reward_log_probs = log_softmax(self.reward(inputs), -1)
        reward_error = twohot_loss(reward_log_probs, self.coded(segments.rewards), self.bins)
        elements["reward"] = reward_error * decay[:-1], segments.step_mask
        value_log_probs = log_softmax(self.q(inputs), -1)  # [E, H, N, K]
        coded = self.coded(targets).expand(value_log_probs.shape[:-1])
        value_error = twohot_loss(value_log_probs, coded, self.bins).mean(0)
        # A step whose next observation is unknown has a target only where nothing comes after it.
        elements["value"] = value_error * decay[:-1], segments.next_mask | segments.terminations
        if self.termination is not None:
            logits = self.termination(self.joined(latents[1:], task=task))[..., 0]
            elements["termination"] = bernoulli_loss(logits, segments.terminations), segments.step_mask
        assert self.training == was_training

        # Policy, on detached states and values
        policy_error, metrics = self.policy_loss(latents.detach(), segments, deterministic=deterministic, pair=pair)
        elements["policy"] = policy_error * decay, segments.state_mask
        metrics["target_value"] = masked_mean(targets, elements["value"][1])
        return elements, metrics

    def td_targets(
        self, segments: Segments, next_latents: Tensor, *, deterministic: bool, pair: Sequence[int] | None = None
    ) -> Tensor:
        """Return `[H, N]`: the reward, and the discounted lesser of two target values of the policy's next action."""
        task = segments.tasks
        params = self.policy(self.joined(next_latents, task=task))
        noise = None if deterministic else self.policy.noise(params)
        actions = self.policy.sample(params, noise, self.mask_of(task))
        inputs = self.joined(next_latents, actions, task=task)
        values = self.read(self.target_q(inputs, which=pair or self._pair(deterministic=False)))
        following = values.amin(0) * (~segments.terminations)
        return segments.rewards + self._discount_of(task) * following

    def policy_loss(
        self, latents: Tensor, segments: Segments, *, deterministic: bool, pair: Sequence[int] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `[H + 1, N]`, minus value and entropy of the policy at detached `latents [H + 1, N, L]`; metrics."""
        task = segments.tasks
        mask = self.mask_of(task)
        params = self.policy(self.joined(latents, task=task))
        noise = None if deterministic else self.policy.noise(params)
        which = pair or self._pair(deterministic=False)
        if self.config.is_discrete:
            values = self._expected_value(latents, params, task, which)
        else:
            actions = self.policy.sample(params, noise, mask)
            values = self.read(self.q(self.joined(latents, actions, task=task), which=which, frozen=True)).mean(0)
        if self.training:
            self._update_range(values[0].detach(), segments.state_mask[0])
        entropy = self.policy.entropy(params, noise, mask)
        loss = -(self.config.entropy_scale * entropy + values / self.value_range)
        metrics = {
            "policy_entropy": masked_mean(entropy.detach(), segments.state_mask),
            "policy_value": masked_mean(values.detach(), segments.state_mask),
            "value_range": self.value_range.clone(),
        }
        return loss, metrics

    def rollout(self, segments: Segments) -> Tensor:
        """Return `[H + 1, N, L]`: the encoded first observation, then where the dynamics take it."""
        latent = self.latents({name: value[0] for name, value in segments.obs.items()}, segments.tasks)
        latents = [latent]
        for action in segments.actions:
            latent = self.dynamics(self.joined(latent, action, task=segments.tasks))
            latents.append(latent)
        return torch.stack(latents)

    def latents(self, obs: dict[str, Tensor], task: Tensor | None) -> Tensor:
        """Return the encoded observations, `[N, L]`; leaves `[N, *obs]`, `task [N]` or None."""
        latent: Tensor = self.encoder(obs, None if task is None else self._embedding(task))
        return latent

    def joined(self, *parts: Tensor, task: Tensor | None) -> Tensor:
        """Return what a network sees: `[..., D]` of every part and the embedding of `task [N]`, side by side."""
        if task is not None:
            embedding = self._embedding(task)
            parts = (parts[0], embedding.expand(*parts[0].shape[:-1], -1), *parts[1:])
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def read(self, logits: Tensor) -> Tensor:
        """Return the scalar `[...]` that two-hot `logits [..., K]` stand for."""
        return symexp(twohot_mean(torch.softmax(logits, -1), self.bins))

    def coded(self, scalars: Tensor) -> Tensor:
        """Return scalars on the scale of the bins, any shape."""
        limit = self.config.symlog_limit
        return symlog(scalars).clamp(-limit, limit)

    def mask_of(self, task: Tensor | None) -> Tensor | None:
        """Return which actions `task [...]` has, `[..., A]` bool; None where all tasks have all."""
        return None if task is None else self.action_mask[task]

    def encode(self, obs: Obs, *, task: Tensor | None = None) -> State:
        """Return the state after an observation, `[B, *obs]`; `task [B]` for a model of several tasks."""
        named = {
            name: value.to(self.bins.device)
            for name, value in named_obs(obs, self.config.obs_shapes, leading=1).items()
        }
        task = self._checked_task(task, len(next(iter(named.values()))))
        return State(latent=self.latents(named, task), task=task)

    def observe(self, batch: Batch) -> State:
        """Return the state at every row, leaves `[B, T, ...]`: each observation encoded by itself."""
        obs = named_obs(batch.obs, self.config.obs_shapes, leading=2)
        flat = {name: blank(value, batch.obs_mask).flatten(0, 1) for name, value in obs.items()}
        task = batch_tasks(batch, self.config).flatten() if self.config.num_tasks else None
        shape = batch.rewards.shape
        return State(latent=self.latents(flat, task), task=task).map(lambda leaf: leaf.unflatten(0, shape))

    def imagine(self, state: State, actions: Tensor) -> Trajectory:
        """Return what `actions [H, B, A]` lead to from `state`."""
        self._check_actions(state, actions)
        task, latent = state.task, state.latent
        latents = [latent]
        for action in actions:
            latents.append(self.dynamics(self.joined(latents[-1], action.to(latent.dtype), task=task)))
        before, after = torch.stack(latents[:-1]), torch.stack(latents[1:])
        rewards = self.read(self.reward(self.joined(before, actions.to(latent.dtype), task=task)))
        continues = torch.ones_like(rewards)
        if self.termination is not None:
            continues = torch.sigmoid(-self.termination(self.joined(after, task=task))[..., 0])
        tasks = None if task is None else task.expand(len(actions), -1)
        return Trajectory(rewards=rewards, continues=continues, states=State(latent=after, task=tasks))

    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        state: ActorState | None = None,
        *,
        is_first: Tensor | None = None,
        deterministic: bool = False,
        task: Tensor | None = None,
    ) -> tuple[Tensor, ActorState]:
        """Choose actions `[N, A]` for N environments by planning, or by the policy where `config.plans` is off.

        One-hot where discrete, in [-1, 1] where continuous; `task [N]` for a model of several tasks.
        """
        latent = self.encode(obs, task=task)
        previous = reset(state, is_first)
        if self.config.plans:
            return self.plan(latent, previous, deterministic=deterministic)
        params = self.policy(self.joined(latent.latent, task=latent.task))
        noise = None if deterministic else self.policy.noise(params)
        return self.policy.sample(params, noise, self.mask_of(latent.task)), previous

    @torch.no_grad()
    def plan(
        self, state: State, previous: ActorState | None = None, *, deterministic: bool = False
    ) -> tuple[Tensor, ActorState]:
        """Plan from `state` (leaves `[N, ...]`), starting from what was planned a step earlier; see `act`."""
        return plan(self, state, previous or ActorState(), deterministic=deterministic)

    def decode(self, state: State) -> Obs:
        """Raise: there is no decoder.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "TD-MPC2 has no decoder: its latent states are not trained to hold observations. Compare rewards and "
            "continues of `imagine` instead, or use a family that reconstructs, such as dreamerv3."
        )

    def value(self, state: State, *, deterministic: bool = True, pair: Sequence[int] | None = None) -> Tensor:
        """Return `[...]`, the mean of two values of the policy's action in `state`."""
        params = self.policy(self.joined(state.latent, task=state.task))
        noise = None if deterministic else self.policy.noise(params)
        actions = self.policy.sample(params, noise, self.mask_of(state.task))
        inputs = self.joined(state.latent, actions, task=state.task)
        return self.read(self.q(inputs, which=pair or self._pair(deterministic=deterministic))).mean(0)

    def discount(self, state: State) -> Tensor:
        """Return the discount, `[]`, or that of every state's task, `[...]`."""
        return self._discount_of(state.task)

    def _expected_value(self, latents: Tensor, params: Tensor, task: Tensor | None, which: Sequence[int]) -> Tensor:
        """Return the mean of the values of all choices under the policy, with gradient for the policy alone."""
        num = self.config.action_dim
        with torch.no_grad():
            choices = torch.eye(num, device=latents.device)
            repeated = latents.unsqueeze(-2).expand(*latents.shape[:-1], num, -1)  # [H + 1, N, A, L]
            one_hot = choices.expand(*latents.shape[:-1], num, num)
            task_rows = None if task is None else task[:, None].expand(-1, num)
            values = self.read(self.q(self.joined(repeated, one_hot, task=task_rows), which=which)).mean(0)
        return (torch.softmax(self.policy.logits(params, self.mask_of(task)), -1) * values).sum(-1)

    def _update_range(self, values: Tensor, mask: Tensor) -> None:
        """Move the running range towards that of `values [N]` where `mask [N]` is True."""
        levels = torch.nanquantile(values.float().masked_fill(~mask, float("nan")), self.value_levels)
        spread = (levels[1] - levels[0]).clamp(min=1.0)
        spread = torch.where(spread.isnan(), self.value_range, spread)  # no value was real
        self.value_range.lerp_(spread, self.config.scale_rate)

    def _embedding(self, task: Tensor) -> Tensor:
        assert self.task_embedding is not None
        return self.task_embedding[task]

    def _discount_of(self, task: Tensor | None) -> Tensor:
        return self.discounts[0] if task is None else self.discounts[task]

    def _pair(self, *, deterministic: bool) -> list[int]:
        """Return two members of the ensemble, at random; drawn on the CPU, so that no device is waited for."""
        if deterministic or self.config.num_q == 2:
            return [0, 1]
        return torch.randperm(self.config.num_q)[:2].tolist()

    def _checked_task(self, task: Tensor | None, num: int) -> Tensor | None:
        if not self.config.num_tasks:
            return None
        if task is None or task.shape != (num,):
            raise DataError(
                f"The model tells {self.config.num_tasks} tasks apart: give task [{num}], the number of each "
                f"observation's task; got {None if task is None else list(task.shape)}."
            )
        return task.to(self.bins.device).long()

    def _check_actions(self, state: State, actions: Tensor) -> None:
        expected = (*state.latent.shape[:-1], self.config.action_dim)
        if actions.ndim != 3 or tuple(actions.shape[1:]) != expected:
            raise DataError(
                f"imagine expects actions [H, B, A] = [H, {', '.join(map(str, expected))}], time first; "
                f"got {list(actions.shape)}. Data is batch first: use actions.transpose(0, 1)."
            )
