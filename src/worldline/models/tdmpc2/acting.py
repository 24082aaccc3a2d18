"""How TD-MPC2 acts: by MPPI in its latent space, some of the sequences proposed by the policy.

Discrete actions are planned as one-hot vectors. Where there are no more sequences than would be sampled, each is
valued, once; otherwise they are drawn from categorical distributions that are fitted to the best ones. Exploration
mixes in a share of the uniform distribution, as noise of `plan_min_std` does for continuous actions.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.planning import CategoricalSequences, NormalSequences, Sequences, every_sequence, mppi, sequence_values

if TYPE_CHECKING:
    from worldline.models.tdmpc2.config import TDMPC2Config
    from worldline.models.tdmpc2.model import TDMPC2, State

_MANY_ACTIONS = 20  # from here on, planning takes two iterations more
_SEED = 0  # of plans that are to come out the same again


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ActorState:
    """What `act` remembers between calls: the last plan."""

    plan: Tensor | None = None  # [H, N, A], mean of the planned sequences
    is_fresh: Tensor | None = None  # [N] bool, the environments for which the plan counts for nothing


class TaskPolicy:
    """The policy of one task of a model of several."""

    def __init__(self, model: TDMPC2, task: int) -> None:
        self.model = model
        self.task = task

    def act(
        self,
        obs: Obs,
        state: ActorState | None = None,
        *,
        is_first: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, ActorState]:
        """Choose actions `[N, A]` for N environments of the task; see `protocols.Policy`."""
        num = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        task = torch.full((num,), self.task)
        return self.model.act(obs, state, is_first=is_first, deterministic=deterministic, task=task)


def reset(state: ActorState | None, is_first: Tensor | None) -> ActorState:
    """Return what is remembered where an episode goes on."""
    if state is None or state.plan is None:
        return ActorState()
    fresh = None if is_first is None else is_first.to(state.plan.device).bool()
    return ActorState(plan=state.plan, is_fresh=fresh)


def plan(model: TDMPC2, state: State, previous: ActorState, *, deterministic: bool) -> tuple[Tensor, ActorState]:
    """Return actions `[N, A]` and what to remember; see `TDMPC2.plan`."""
    config = model.config
    device = state.latent.device
    generator = torch.Generator(device).manual_seed(_SEED) if deterministic else None
    iterations, samples, elites = config.plan_iterations, config.plan_samples, config.plan_elites
    if config.action_dim >= _MANY_ACTIONS:
        iterations += 2
    proposals = None
    if _can_value_all(config):
        proposals = every_sequence(config.horizon, config.action_dim, device=device)
        samples = elites = proposals.shape[1]
        proposals = proposals[:, None].expand(-1, len(state.latent), -1, -1)
        iterations = 1
    elif config.plan_policy_samples:
        proposals = propose(model, state, generator)
    found = mppi(
        lambda actions: sequence_values(model, state, actions, deterministic=deterministic),
        _start(model, state, previous),
        iterations=iterations,
        samples=samples,
        elites=elites,
        temperature=config.plan_temperature,
        proposals=proposals,
        generator=generator,
    )
    if deterministic:
        # Near a maximum one number does as well as the next; of choices one is the best.
        action = found.best[0] if config.is_discrete else found.actions[0]
    else:
        action = found.sequences.explore(found.actions[0])
    return action, ActorState(plan=found.sequences.mean)


def propose(model: TDMPC2, state: State, generator: torch.Generator | None) -> Tensor:
    """Return sequences of the policy's actions, `[H, N, P, A]`."""
    config = model.config
    num, samples = len(state.latent), config.plan_policy_samples
    start = state.map(lambda leaf: leaf.repeat_interleave(samples, 0))
    latent, task = start.latent, start.task
    mask = model.net.mask_of(task)
    sequence = []
    for step in range(config.horizon):
        params = model.net.policy(model.net.joined(latent, task=task))
        if generator is None:
            noise = model.net.policy.noise(params)
        else:  # the same for every environment
            noise = model.net.policy.noise(params[:samples], generator)
            noise = noise.repeat(num, *[1] * (noise.ndim - 1))
        action = model.net.policy.sample(params, noise, mask)
        sequence.append(action.unflatten(0, (num, samples)))
        if step + 1 < config.horizon:
            latent = model.net.dynamics(model.net.joined(latent, action, task=task))
    return torch.stack(sequence)


def _can_value_all(config: TDMPC2Config) -> bool:
    """Return whether there are few enough sequences of choices to value them all; tasks differ in which they have."""
    return config.is_discrete and not config.num_tasks and config.action_dim**config.horizon <= config.plan_samples


def _start(model: TDMPC2, state: State, previous: ActorState) -> Sequences:
    config = model.config
    shape = (config.horizon, len(state.latent), config.action_dim)
    last, fresh = previous.plan, previous.is_fresh
    mask, device = model.net.mask_of(state.task), state.latent.device
    if last is not None and fresh is not None:
        nothing = 1 / config.action_dim if config.is_discrete else 0.0
        last = last.masked_fill(fresh[None, :, None], nothing)
    if config.is_discrete:
        return CategoricalSequences.start(last, shape, floor=config.plan_floor, mask=mask, device=device)
    return NormalSequences.start(
        last, shape, min_std=config.plan_min_std, max_std=config.plan_max_std, mask=mask, device=device
    )
