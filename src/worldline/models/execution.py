"""Chunks of actions, carried out one action at a time, in N environments whose episodes begin at different times.

Two ways of it differ in what a new chunk does to the actions that earlier ones planned for the same steps:

- receding horizon (Chi et al. 2023): a chunk replaces them; a new one is made once `num_executed` of it were taken
- temporal ensembling (Zhao et al. 2023, section 4.2): one is made at every step, and the action taken is the mean of
  those that all chunks planned for this step, where the i-th chunk, the oldest being 0, has the weight exp(-m i)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ChunkState:
    """What a policy remembers of N environments between two steps."""

    history: dict[str, Tensor]  # by name, [N, n, *obs]: the last n observations, the newest one last
    plan: Tensor  # [N, P, A], the next actions; row 0 is taken first
    count: Tensor  # [N, P] int64, how many chunks each of them is the mean of
    left: Tensor  # [N] int64, how many are taken before the next chunk is made
    num_made: Tensor  # [N] int64, chunks made in this episode

    def map(self, function: Callable[[Tensor], Tensor]) -> ChunkState:
        """Return the state with `function` applied to every tensor."""
        return ChunkState(
            history={name: function(value) for name, value in self.history.items()},
            plan=function(self.plan),
            count=function(self.count),
            left=function(self.left),
            num_made=function(self.num_made),
        )


def remember(
    obs: dict[str, Tensor], history: dict[str, Tensor] | None, is_first: Tensor, num_obs: int
) -> dict[str, Tensor]:
    """Return the last `num_obs` observations, the first of an episode repeated before it.

    Args:
        obs: By name, `[N, *obs]`.
        history: What the last call returned; None where there was none.
        is_first: `[N]` bool, where an episode has just begun.
        num_obs: n.
    """
    remembered = {}
    for name, value in obs.items():
        repeated = value[:, None].expand(-1, num_obs, *value.shape[1:])  # [N, n, *obs]
        if history is None:
            remembered[name] = repeated
            continue
        moved = torch.cat([history[name][:, 1:], value[:, None]], 1)
        remembered[name] = torch.where(is_first.view(-1, *(1,) * value.ndim), repeated, moved)
    return remembered


def blend(plan: Tensor, count: Tensor, chunk: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Return the plan after one more chunk, and how many chunks each action is the mean of then.

    Args:
        plan: `[N, P, A]`, the means of earlier chunks.
        count: `[N, P]`, of how many; 0 where there are none.
        chunk: `[N, P, A]`, the new one.
        rate: m; the k-th chunk has the weight exp(-m k) beside exp(0), ..., exp(-m (k - 1)).
    """
    assert plan.shape == chunk.shape, f"plan {tuple(plan.shape)} and chunk {tuple(chunk.shape)} differ"
    weight = torch.exp(-rate * count)[..., None]
    before = torch.exp(-rate * torch.arange(plan.shape[1] + 1, device=count.device)).cumsum(0)  # of 1, 2, ... chunks
    total = before[count][..., None]
    return torch.where(count[..., None] > 0, plan + (chunk - plan) * (weight / total), chunk), count + 1


def advance(state: ChunkState) -> tuple[Tensor, ChunkState]:
    """Return the actions `[N, A]` that come next, and the state after they were taken."""
    nothing = torch.zeros_like(state.plan[:, :1])
    return state.plan[:, 0], dataclasses.replace(
        state,
        plan=torch.cat([state.plan[:, 1:], nothing], 1),
        count=torch.cat([state.count[:, 1:], torch.zeros_like(state.count[:, :1])], 1),
        left=state.left - 1,
    )
