"""Plan by hand: imagine many random action sequences, take the first action of the best one, repeat.

Random shooting needs nothing but `encode` and `imagine`, so it works with every world model:
python examples/plan.py runs/example
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from worldline import load_model
from worldline.envs.make import make_env
from worldline.models.base import WorldModel

HORIZON = 12  # H, steps to imagine
NUM_CANDIDATES = 128  # N, sequences to imagine
MAX_STEPS = 200  # when to stop, if the pole is still up


def plan(model: WorldModel, obs: Tensor) -> Tensor:
    """Return the first action `[A]` of the random sequence that promises the most reward, from `obs [4]`."""
    choices = torch.randint(2, (HORIZON, NUM_CANDIDATES))
    actions = torch.nn.functional.one_hot(choices, 2).float()  # [H, N, A]
    trajectory = model.imagine(model.encode(obs.expand(NUM_CANDIDATES, -1)), actions)
    alive = trajectory.continues.cumprod(dim=0)  # [H, N], probability that the episode goes on after each step
    alive_before = torch.cat([torch.ones_like(alive[:1]), alive[:-1]])
    promised = (trajectory.rewards * alive_before).sum(dim=0) + alive[-1]  # [N]
    return actions[0, promised.argmax()]


def main(path: str = "runs/example") -> None:
    """Print how long planning balances the pole."""
    model = load_model(path)
    assert isinstance(model, WorldModel)
    env = make_env("CartPole-v1", max_episode_steps=MAX_STEPS)
    obs, _ = env.reset(seed=1)
    torch.manual_seed(0)
    total, is_over = 0.0, False
    with torch.no_grad():
        while not is_over:
            action = plan(model, torch.from_numpy(obs))
            obs, reward, terminated, truncated, _ = env.step(action.numpy())
            total, is_over = total + float(reward), terminated or truncated
    print(f"Planning balanced the pole for {total:.0f} steps of {MAX_STEPS}.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
