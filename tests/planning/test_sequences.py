from __future__ import annotations

import pytest
import torch

from worldline.planning import CategoricalSequences, NormalSequences, every_sequence


def normal(**changes: object) -> NormalSequences:
    settings = {"min_std": 0.05, "max_std": 2.0} | changes
    return NormalSequences.start(None, (3, 2, 4), **settings)  # type: ignore[arg-type]


def categorical(**changes: object) -> CategoricalSequences:
    settings = {"floor": 0.1} | changes
    return CategoricalSequences.start(None, (3, 2, 4), **settings)  # type: ignore[arg-type]


def test_a_start_is_the_last_plan_a_step_later():
    last = torch.arange(6.0).view(3, 1, 2)
    start = NormalSequences.start(last, (3, 1, 2), min_std=0.1, max_std=2.0)
    assert start.mean[:, 0].tolist() == [[2, 3], [4, 5], [0, 0]]
    assert (start.std == 2).all()
    choices = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    assert CategoricalSequences.start(choices, (3, 1, 2), floor=0.0).mean[:, 0].tolist() == [
        [0.25, 0.75],
        [0.5, 0.5],
        [0.5, 0.5],
    ]


def test_normal_samples_are_within_bounds_and_masked():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    sample = normal(mask=mask).sample(500, None)
    assert sample.shape == (3, 2, 500, 4)
    assert sample.abs().max() == 1
    assert not sample[:, 0, :, 2:].any()
    assert sample[:, 1, :, 2:].std() > 0.5


def test_fitting_a_normal_by_hand():
    sequences = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    fitted = NormalSequences.start(None, (1, 1, 1), min_std=0.05, max_std=2.0).fit(
        sequences, torch.tensor([[0.75, 0.25]])
    )
    assert fitted.mean.item() == pytest.approx(0.25)
    assert fitted.std.item() == pytest.approx((0.75 * 0.25**2 + 0.25 * 0.75**2) ** 0.5)
    narrow = fitted.fit(sequences, torch.tensor([[1.0, 0.0]]))
    assert narrow.std.item() == pytest.approx(0.05)


def test_choices_are_one_hot_and_allowed():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    sequences = categorical(mask=mask)
    sample = sequences.sample(500, None)
    assert torch.equal(sample.sum(-1), torch.ones(3, 2, 500))
    assert not sample[:, 0, :, 2:].any()
    assert not sequences.explore(torch.eye(4)[:2])[0, 2:].any()
    torch.testing.assert_close(sample[:, 1].mean((0, 1)), torch.full((4,), 0.25), atol=0.05, rtol=0)


def test_fitting_choices_by_hand():
    sequences = torch.eye(4)[[0, 1]].view(1, 1, 2, 4)
    start = CategoricalSequences.start(None, (1, 1, 4), floor=0.2)
    fitted = start.fit(sequences, torch.tensor([[0.75, 0.25]]))
    assert fitted.mean[0, 0].tolist() == [0.75, 0.25, 0, 0]
    torch.testing.assert_close(fitted.probs[0, 0], torch.tensor([0.65, 0.25, 0.05, 0.05]))


@pytest.mark.parametrize("make", [normal, categorical])
def test_a_generator_gives_every_environment_the_same(make):
    first = make().sample(5, torch.Generator().manual_seed(0))
    assert first.shape == (3, 2, 5, 4)
    assert torch.equal(first[:, 0], first[:, 1])
    assert torch.equal(first, make().sample(5, torch.Generator().manual_seed(0)))
    free = make().sample(50, None)
    assert not torch.equal(free[:, 0], free[:, 1])


def test_exploring_adds_the_first_steps_noise():
    torch.manual_seed(0)
    sequences = normal().fit(torch.zeros(3, 2, 1, 4), torch.ones(2, 1))
    noisy = torch.stack([sequences.explore(torch.zeros(2, 4)) for _ in range(500)])
    assert abs(noisy.std().item() - 0.05) < 0.005
    choices = torch.stack([categorical(floor=0.4).explore(torch.eye(4)[:2])[0] for _ in range(2000)])
    assert abs(choices[:, 0].mean().item() - 0.7) < 0.05  # 0.6 kept, and a quarter of the rest


def test_every_sequence_is_there_once():
    sequences = every_sequence(3, 2)
    assert sequences.shape == (3, 8, 2)
    assert sequences.sum(-1).eq(1).all()
    assert sorted("".join(map(str, column)) for column in sequences.argmax(-1).T.tolist()) == [
        "000", "001", "010", "011", "100", "101", "110", "111",
    ]  # fmt: skip
    assert torch.equal(every_sequence(1, 3)[0], torch.eye(3))
