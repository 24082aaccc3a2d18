from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldline.planning import CategoricalSequences, NormalSequences, Sequences, cem, mppi

TARGET = torch.tensor([[0.5, -0.3], [-0.8, 0.9]])  # [N, A], of every step


def distance(actions: Tensor) -> Tensor:
    return -10 * (actions - TARGET[None, :, None]).square().sum((0, 3))


def normal() -> Sequences:
    return NormalSequences.start(None, (3, 2, 2), min_std=0.05, max_std=2.0)


@pytest.mark.parametrize("search", [mppi, cem])
def test_the_best_sequence_is_found_for_each_environment(search):
    torch.manual_seed(0)
    plan = search(distance, normal())
    assert plan.actions.shape == (3, 2, 2)
    assert (plan.sequences.mean - TARGET).abs().max() < 0.1
    assert (plan.actions - TARGET).abs().max() < 0.25


@pytest.mark.parametrize("search", [mppi, cem])
def test_the_best_choices_are_found(search):
    torch.manual_seed(0)
    target = torch.tensor([[2, 0, 3], [1, 1, 0]]).T  # [H, N]
    plan = search(
        lambda actions: (actions.argmax(-1) == target[..., None]).float().sum(0),
        CategoricalSequences.start(None, (3, 2, 4), floor=0.1),
        **({"temperature": 10.0} if search is mppi else {}),
    )
    assert torch.equal(plan.actions.argmax(-1), target)
    assert torch.equal(plan.sequences.mean.argmax(-1), target)


@pytest.mark.parametrize("search", [mppi, cem])
def test_proposals_are_among_the_samples(search):
    proposals = TARGET.expand(3, 1, 2, 2).transpose(1, 2)  # [H, N, 1, A]: what cannot be bettered
    plan = search(distance, normal(), iterations=1, samples=50, elites=1, proposals=proposals)
    assert torch.equal(plan.actions, TARGET.expand(3, 2, 2))


def test_weights_of_mppi_by_hand():
    """Two proposals worth 0 and 2, at temperature 0.5: weights 1 : e."""
    proposals = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    plan = mppi(
        lambda actions: 2 * actions[0, :, :, 0],
        NormalSequences.start(None, (1, 1, 1), min_std=0.05, max_std=2.0),
        iterations=1, samples=2, elites=2, proposals=proposals,
    )  # fmt: skip
    assert plan.sequences.mean.item() == pytest.approx(2.718282 / 3.718282)
    assert plan.actions.item() in (0.0, 1.0)


def test_the_best_is_known_whatever_the_weights():
    proposals = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand(1, 50, 2, 1)
    plan = mppi(
        lambda actions: actions[0, :, :, 0],
        NormalSequences.start(None, (1, 50, 1), min_std=0.05, max_std=2.0),
        iterations=1, samples=2, elites=2, temperature=0.0, proposals=proposals,
    )  # fmt: skip
    assert torch.equal(plan.best, torch.ones(1, 50, 1))
    assert 5 < plan.actions.sum() < 45
    assert plan.sequences.mean.eq(0.5).all()


@pytest.mark.parametrize("search", [mppi, cem])
def test_what_is_not_a_number_is_worth_nothing(search):
    torch.manual_seed(0)
    plan = search(lambda actions: torch.full(actions.shape[1:3], float("nan")), normal(), samples=16, elites=4)
    assert plan.actions.isfinite().all()


@pytest.mark.parametrize("search", [mppi, cem])
def test_a_generator_repeats_the_plan_whoever_else_is_planned_for(search):
    def plan(num: int) -> Tensor:
        sequences = NormalSequences.start(None, (3, num, 2), min_std=0.05, max_std=2.0)
        return search(
            lambda actions: -10 * (actions - TARGET[None, :num, None]).square().sum((0, 3)),
            sequences,
            generator=torch.Generator().manual_seed(0),
        ).actions

    assert torch.equal(plan(2), plan(2))
    torch.testing.assert_close(plan(1), plan(2)[:, :1])


@pytest.mark.parametrize("counts", [{"iterations": 0}, {"elites": 0}, {"samples": 4, "elites": 5}])
def test_impossible_counts(counts):
    with pytest.raises(ValueError, match="Planning needs"):
        mppi(distance, normal(), **counts)
