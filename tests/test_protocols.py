from __future__ import annotations

import pytest

from tiny_family import Tiny, TinyConfig
from worldline.data.synthetic import create_random_buffer
from worldline.protocols import ParamGroup, Policy, Sampler, Seekable, Trainable


def test_what_satisfies_what():
    model = Tiny(TinyConfig(obs_shape=(4,), action_dim=2))
    buffer = create_random_buffer(capacity=100, obs_shape=(4,), action_dim=2, num_episodes=2, episode_length=10)
    satisfied = {
        protocol: [isinstance(thing, protocol) for thing in (model, buffer)]
        for protocol in (Trainable, Policy, Sampler, Seekable)
    }
    assert satisfied == {
        Trainable: [True, False],
        Policy: [True, False],
        Sampler: [False, True],
        Seekable: [False, True],
    }


def test_a_group_says_only_what_differs_from_the_configuration():
    group = ParamGroup(name="all", params=[])
    assert (group.algorithm, group.lr_scale, group.weight_decay, group.max_grad_norm, group.agc) == (
        "adamw",
        1.0,
        None,
        None,
        0.0,
    )
    with pytest.raises(TypeError):
        ParamGroup("all", [])  # keywords only: the fields are many and alike
