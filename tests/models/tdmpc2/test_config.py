from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from models.tdmpc2.tiny_tdmpc2 import make_config
from worldline.errors import ConfigError
from worldline.models.base import num_trained
from worldline.models.tdmpc2 import SIZES, TDMPC2, TDMPC2Config

# The published settings of the 80-task models, whose sizes give the names
MT80: dict[str, Any] = {"obs_shape": (39,), "action_dim": 6, "task_action_dims": (6,) * 80, "task_dim": 96}
PUBLISHED = {"1m": 1e6, "5m": 5e6, "19m": 19e6, "48m": 48e6, "317m": 317e6}


def counted(latent: int, enc: int, layers: int, mlp: int, num_q: int, *, obs: int, action: int, task: int) -> int:
    """Count weights, biases and norms as the reference's networks have them, layer by layer."""

    def linear(size_in: int, size_out: int, *, normed: bool = True) -> int:
        return (size_in + 1) * size_out + (2 * size_out if normed else 0)

    def head(size_in: int, size_out: int, *, normed: bool = False) -> int:
        return linear(size_in, mlp) + linear(mlp, mlp) + linear(mlp, size_out, normed=normed)

    both = latent + action + task
    encoder = linear(obs + task, enc) + (layers - 2) * linear(enc, enc) + linear(enc, latent)
    policy = head(latent + task, 2 * action)
    return encoder + head(both, latent, normed=True) + head(both, 101) + policy + num_q * head(both, 101)


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size: str):
    with torch.device("meta"):
        model = TDMPC2(TDMPC2Config(action_type="continuous", episodic=False, **MT80, **SIZES[size]))
    settings = SIZES[size]
    dims = (settings[name] for name in ("latent", "encoder_units", "encoder_layers", "units", "num_q"))
    assert num_trained(model) == counted(*dims, obs=39, action=6, task=96) + 80 * 96
    # "1M" has 1.4 million and "5M" 5.4 million: the names are rounded, and without embeddings 1.2 and 5.0.
    assert num_trained(model) == pytest.approx(PUBLISHED[size], rel=0.02, abs=0.5e6)


def test_the_317m_model_is_the_published_one():
    with torch.device("meta"):
        model = TDMPC2(TDMPC2Config(action_type="continuous", episodic=False, **MT80, **SIZES["317m"]))
    assert num_trained(model) == 317_383_129


def test_the_defaults_are_5m():
    config = TDMPC2Config(obs_shape=(4,), action_dim=2)
    assert dataclasses.replace(config, **SIZES["5m"]) == config


@pytest.mark.parametrize(
    ("length", "discount"), [(1, 0.95), (50, 0.95), (250, 0.98), (500, 0.99), (1000, 0.995), (10000, 0.995)]
)
def test_discounts_follow_the_length_of_episodes(length: int, discount: float):
    assert make_config(episode_length=length).discounts == (pytest.approx(discount),)


def test_every_task_has_its_discount():
    config = make_config(task_action_dims=(1, 2), task_episode_lengths=(250, 500))
    assert config.discounts == (pytest.approx(0.98), pytest.approx(0.99))
    assert make_config(task_action_dims=(1, 2)).discounts == (0.99, 0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs_shape": ()}, "1 to 3 positive dimensions"),
        ({"action_dim": 0}, "action_dim must be at least 1"),
        ({"action_dim": 1, "action_type": "discrete"}, "at least 2 choices"),
        ({"task_action_dims": (3,)}, r"between 1 and action_dim=2; got \(3,\)"),
        ({"task_episode_lengths": (3,)}, "one for each of 0 tasks"),
        ({"latent": 12}, "multiple of simplex=8"),
        ({"num_q": 1}, "num_q must be between 2 and 256; got 1"),
        ({"plan_elites": 25}, "plan_samples=24 must be at least plan_elites=25"),
        ({"log_std_min": 3.0}, "log_std_min must be at most log_std_max"),
        ({"rho": float("nan")}, "rho must be between"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_config(**changes)
