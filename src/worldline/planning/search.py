"""MPPI and the cross-entropy method: sample, keep the best, fit, again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from worldline.ops.distributions import categorical_sample
from worldline.planning.sequences import Sequences


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What came out of planning, for N environments."""

    actions: Tensor  # [H, N, A], the chosen sequence
    best: Tensor  # [H, N, A], the best of the last samples
    sequences: Sequences  # the distribution in the end; its mean starts the next plan


def mppi(
    evaluate: Callable[[Tensor], Tensor],
    sequences: Sequences,
    *,
    iterations: int = 6,
    samples: int = 512,
    elites: int = 64,
    temperature: float = 0.5,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Plan by model-predictive path integrals (Williams et al. 2015) over the best samples, as in TD-MPC2.

    Args:
        evaluate: From sequences `[H, N, S, A]` to what they are worth, `[N, S]`.
        sequences: The distribution to start with.
        iterations: How often to sample and fit.
        samples: S, sequences that each iteration evaluates, the proposals among them.
        elites: How many of the best the distribution is fitted to, weighted by exp(temperature * value).
        temperature: See `elites`.
        proposals: `[H, N, P, A]`, sequences that are among the samples of every iteration (of a policy, say).
        generator: For a plan that comes out the same again; None draws from torch's default generator.

    Returns:
        The distribution, and one of the last elites, drawn by weight.
    """

    def weigh(values: Tensor) -> Tensor:
        return torch.softmax(temperature * values, -1)

    return _search(evaluate, sequences, weigh, (iterations, samples, elites), proposals, generator)


def cem(
    evaluate: Callable[[Tensor], Tensor],
    sequences: Sequences,
    *,
    iterations: int = 6,
    samples: int = 512,
    elites: int = 64,
    proposals: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Plan:
    """Plan by the cross-entropy method (Rubinstein 1999): all elites count the same. Arguments as for `mppi`.

    Returns:
        The distribution, and the best sequence of the last samples.
    """

    def weigh(values: Tensor) -> Tensor:
        return torch.full_like(values, 1 / values.shape[-1])

    plan = _search(evaluate, sequences, weigh, (iterations, samples, elites), proposals, generator)
    return dataclasses.replace(plan, actions=plan.best)


def _search(
    evaluate: Callable[[Tensor], Tensor],
    sequences: Sequences,
    weigh: Callable[[Tensor], Tensor],
    counts: tuple[int, int, int],
    proposals: Tensor | None,
    generator: torch.Generator | None,
) -> Plan:
    iterations, samples, elites = counts
    num_proposals = 0 if proposals is None else proposals.shape[2]
    if not (iterations >= 1 and 1 <= elites <= samples and num_proposals <= samples):
        raise ValueError(
            f"Planning needs 1 or more iterations, 1 to samples={samples} elites and at most so many proposals; got "
            f"{iterations}, {elites} and {num_proposals}."
        )
    for _ in range(iterations):
        candidates = sequences.sample(samples - num_proposals, generator)
        if proposals is not None:
            candidates = torch.cat([proposals, candidates], 2)
        values = evaluate(candidates).nan_to_num(0.0)  # [N, S]
        best, index = values.topk(elites, -1)  # [N, K]
        picked = index[None, ..., None].expand(candidates.shape[0], -1, -1, candidates.shape[-1])
        chosen = candidates.gather(2, picked)  # [H, N, K, A]
        weights = weigh(best)
        sequences = sequences.fit(chosen, weights)
    num = len(weights) if generator is None else 1
    uniform = torch.rand(num, device=weights.device, generator=generator).expand(len(weights))
    picked_one = categorical_sample(weights, uniform)  # [N, K], one-hot
    return Plan(actions=(picked_one[..., None] * chosen).sum(2), best=chosen[:, :, 0], sequences=sequences)
