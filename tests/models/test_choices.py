"""Choices: what is counted, their probabilities by hand, what is refused."""

import dataclasses
import math

import pytest
import torch

from worldline.errors import ConfigError
from worldline.models.choices import check_actions, choices_log_prob, choices_of, choose


@dataclasses.dataclass(frozen=True)
class Settings:
    action_dim: int
    action_type: str
    action_sizes: tuple[int, ...] = ()


def test_choices_of_each_type():
    assert choices_of(Settings(3, "discrete")) == (3,)
    assert choices_of(Settings(5, "multi_discrete", (2, 3))) == (2, 3)
    assert choices_of(Settings(3, "continuous")) == ()


def test_log_probabilities_by_hand():
    # (1/4, 3/4) and (1/2, 1/4, 1/4)
    logits = torch.tensor([[0.0, math.log(3), math.log(2), 0.0, 0.0]])
    actions = torch.tensor([[0.0, 1, 0, 0, 1]])
    assert float(choices_log_prob(logits, actions, (2, 3))) == pytest.approx(math.log(3 / 4 * 1 / 4))
    assert choose(logits, (2, 3), deterministic=True).tolist() == [[0, 1, 1, 0, 0]]


def test_samples_are_as_likely_as_they_should_be():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, math.log(3), math.log(2), 0.0, 0.0]).expand(20_000, 5)
    mean = choose(logits, (2, 3), deterministic=False).mean(0)
    assert mean.tolist() == pytest.approx([1 / 4, 3 / 4, 1 / 2, 1 / 4, 1 / 4], abs=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(0, "continuous"), "at least 1; got 0"),
        (Settings(1, "discrete"), "at least 2 choices"),
        (Settings(5, "multi_discrete", (2, 2)), "sums to 4"),
        (Settings(3, "multi_discrete", (3, 0)), "at least 2 choices"),
    ],
)
def test_what_is_refused(settings: Settings, message: str):
    with pytest.raises(ConfigError, match=message):
        check_actions(settings)
