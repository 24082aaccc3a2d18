"""TD-MPC2: a world model without a decoder, that plans in its latent space."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldline.batch import Batch, Obs, WindowSpec
from worldline.config import from_dict
from worldline.errors import ConfigError, DataError
from worldline.mode import evaluating
from worldline.models.base import Trajectory, WorldModel, build_outline, load_weights
from worldline.models.observations import blank, named_obs
from worldline.models.tdmpc2 import official
from worldline.models.tdmpc2.acting import ActorState, TaskPolicy, plan, reset
from worldline.models.tdmpc2.config import TDMPC2Config
from worldline.models.tdmpc2.losses import loss_elements
from worldline.models.tdmpc2.networks import Networks
from worldline.models.tdmpc2.segments import Segments, batch_tasks, cut
from worldline.ops.masking import masked_mean
from worldline.protocols import ParamGroup
from worldline.tensor_files import check_tensors


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
    # A window of H + 1 rows of an episode has its end as the last step only, which networks would learn to tell by.
    windows = WindowSpec(pad_end=True)
    decodes: ClassVar[bool] = False
    value_range: Tensor

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__(config)
        self.config: TDMPC2Config = config
        self.net = Networks(config)
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
        ours = official.to_ours(tensors)
        # The shapes are compared before any memory is taken for them: the file may claim what it likes.
        outline = build_outline(lambda: cls(config), num_tensors=len(ours))
        check_tensors(outline.net, ours, where=str(path))
        model = cls(config)
        load_weights(model.net, ours, where=str(path))
        return model.eval()

    def export_official(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint that the official implementation reads, in its present layout.

        Raises:
            DataError: The official implementation cannot build such a model (discrete actions, mixed observations).
            FileError: The file cannot be written.
        """
        official.write_checkpoint(official.to_official(self), path)

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return three groups: the encoder, at a lower rate; the other world model; the policy.

        The first two are clipped together.
        """
        config = self.config
        policy, encoder = list(self.net.policy.parameters()), list(self.net.encoder.parameters())
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
        target: list[Tensor] = list(self.net.target_q.parameters())
        online: list[Tensor] = list(self.net.q.parameters())
        torch._foreach_lerp_(target, online, self.config.target_rate)
        embedding = self.net.task_embedding
        if embedding is not None:
            embedding.copy_(torch.renorm(embedding, 2, 0, 1.0))

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" and, detached, its terms and statistics of the policy.

        In training mode the running range of values is updated. Noise comes from torch's default generator.
        """
        return self.loss_of_segments(cut(batch, self.config), deterministic=False)

    def loss_of_segments(
        self, segments: Segments, *, deterministic: bool, pair: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of segments; `deterministic` takes the policy's modes, `pair` says which two Qs count."""
        elements, metrics = loss_elements(self, segments, deterministic=deterministic, pair=pair)
        assert elements.keys() == self.loss_scales.keys(), (sorted(elements), sorted(self.loss_scales))
        terms = {name: masked_mean(*element) for name, element in elements.items()}
        loss = torch.stack([self.loss_scales[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss} | {name: value.detach() for name, value in (terms | metrics).items()}

    def encode(self, obs: Obs, *, task: Tensor | None = None) -> State:
        """Return the state after an observation, `[B, *obs]`; `task [B]` for a model of several tasks."""
        named = {
            name: value.to(self.net.device) for name, value in named_obs(obs, self.config.obs_shapes, leading=1).items()
        }
        task = self._checked_task(task, len(next(iter(named.values()))))
        return State(latent=self.net.latents(named, task), task=task)

    def observe(self, batch: Batch) -> State:
        """Return the state at every row, leaves `[B, T, ...]`: each observation encoded by itself."""
        obs = named_obs(batch.obs, self.config.obs_shapes, leading=2)
        flat = {name: blank(value, batch.obs_mask).flatten(0, 1) for name, value in obs.items()}
        task = batch_tasks(batch, self.config).flatten() if self.config.num_tasks else None
        shape = batch.rewards.shape
        return State(latent=self.net.latents(flat, task), task=task).map(lambda leaf: leaf.unflatten(0, shape))

    def imagine(self, state: State, actions: Tensor) -> Trajectory:
        """Return what `actions [H, B, A]` lead to from `state`."""
        self._check_actions(state, actions)
        task, latent = state.task, state.latent
        inputs, latents = [], []
        for action in actions.to(latent.dtype):
            inputs.append(self.net.joined(latent, action, task=task))
            latent = self.net.dynamics(inputs[-1])
            latents.append(latent)
        rewards = self.net.read(self.net.reward(torch.stack(inputs)))
        after = torch.stack(latents)
        continues = torch.ones_like(rewards)
        if self.net.termination is not None:
            continues = torch.sigmoid(-self.net.termination(self.net.joined(after, task=task))[..., 0])
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
        with evaluating(self):
            latent = self.encode(obs, task=task)
            previous = reset(state, is_first)
            if self.config.plans:
                return self.plan(latent, previous, deterministic=deterministic)
            params = self.net.policy(self.net.joined(latent.latent, task=latent.task))
            noise = None if deterministic else self.net.policy.noise(params)
            return self.net.policy.sample(params, noise, self.net.mask_of(latent.task)), previous

    def for_task(self, task: int) -> TaskPolicy:
        """Return the policy of one of several tasks, which evaluation and collection take.

        Raises:
            ConfigError: There is no task of that number.
        """
        if not 0 <= task < self.config.num_tasks:
            raise ConfigError(f"The model has {self.config.num_tasks} tasks, counted from 0; there is no task {task}.")
        return TaskPolicy(self, task)

    @torch.no_grad()
    def plan(
        self, state: State, previous: ActorState | None = None, *, deterministic: bool = False
    ) -> tuple[Tensor, ActorState]:
        """Plan from `state` (leaves `[N, ...]`), starting from what was planned a step earlier; see `act`."""
        with evaluating(self):
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

    def state_value(self, state: State, *, deterministic: bool = True, pair: Sequence[int] | None = None) -> Tensor:
        """Return `[...]`, the mean of two values of the policy's action in `state`."""
        params = self.net.policy(self.net.joined(state.latent, task=state.task))
        noise = None if deterministic else self.net.policy.noise(params)
        actions = self.net.policy.sample(params, noise, self.net.mask_of(state.task))
        inputs = self.net.joined(state.latent, actions, task=state.task)
        return self.net.read(self.net.q(inputs, which=pair or self.net.pair(deterministic=deterministic))).mean(0)

    def discount(self, state: State) -> Tensor:
        """Return the discount, `[]`, or that of every state's task, `[...]`."""
        return self.net.discount_of(state.task)

    def _checked_task(self, task: Tensor | None, num: int) -> Tensor | None:
        if not self.config.num_tasks:
            return None
        if task is None or task.shape != (num,):
            raise DataError(
                f"The model tells {self.config.num_tasks} tasks apart: give task [{num}], the number of each "
                f"observation's task; got {None if task is None else list(task.shape)}."
            )
        return task.to(self.net.device).long()

    def _check_actions(self, state: State, actions: Tensor) -> None:
        expected = (*state.latent.shape[:-1], self.config.action_dim)
        if actions.ndim != 3 or tuple(actions.shape[1:]) != expected:
            raise DataError(
                f"imagine expects actions [H, B, A] = [H, {', '.join(map(str, expected))}], time first; "
                f"got {list(actions.shape)}. Data is batch first: use actions.transpose(0, 1)."
            )
