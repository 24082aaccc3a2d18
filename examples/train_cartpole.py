"""Collect random CartPole episodes, train a world model on them, and run its policy in the real environment.

What `worldline demo` does, in a page of Python: python examples/train_cartpole.py [optimiser steps]
"""

from __future__ import annotations

import sys
from functools import partial

from worldline import ReplayBuffer, create_model, evaluate_policy, train
from worldline.envs.make import make_env
from worldline.evaluation.rollout import RandomPolicy, collect_episodes
from worldline.models.base import WorldModel
from worldline.protocols import Policy


def main(total_steps: int = 1000) -> None:
    """Print the mean return of the learnt and of a random policy."""
    make = partial(make_env, "CartPole-v1")
    spec = make().data_spec
    episodes = collect_episodes(make, RandomPolicy(spec), num_episodes=500)
    buffer = ReplayBuffer.from_episodes(episodes, action_dim=spec.action_dim, action_sizes=spec.action_sizes)
    print(buffer)

    model = create_model("dreamerv3:size1m", obs_shape=spec.obs_shape, action_dim=spec.action_dim)
    train(model, buffer, total_steps=total_steps, batch_size=16, sequence_length=32, learning_rate=4e-4)

    assert isinstance(model, WorldModel)
    policies: dict[str, Policy] = {"learnt": model, "random": RandomPolicy(spec)}
    for name, policy in policies.items():
        result = evaluate_policy(make, policy, num_episodes=20, seed=1_000_000)
        low, high = result.interval95
        print(f"{name}: mean return {result.mean:.1f} (95% interval {low:.1f} to {high:.1f})")
    model.save_pretrained("runs/example")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
