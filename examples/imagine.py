"""Look into a world model's imagination: what it expects of pushing the cart to the left, and to the right.

python examples/imagine.py runs/example        (a model that examples/train_cartpole.py saved)
"""

from __future__ import annotations

import sys

import torch

from worldline import load_model
from worldline.envs.make import make_env
from worldline.models.base import WorldModel

HORIZON = 10  # H


def main(path: str = "runs/example") -> None:
    """Print the imagined pole angle and survival for both constant actions, from one real first observation."""
    model = load_model(path)
    assert isinstance(model, WorldModel)
    obs, _ = make_env("CartPole-v1").reset(seed=0)
    first = torch.from_numpy(obs).expand(2, -1)  # [B, 4]: the same start for both actions
    actions = torch.eye(2).expand(HORIZON, 2, 2)  # [H, B, A]: always left in row 0, always right in row 1
    torch.manual_seed(0)
    with torch.no_grad():
        trajectory = model.imagine(model.encode(first), actions)
        imagined = model.decode(trajectory.states)  # [H, B, 4]
    assert isinstance(imagined, torch.Tensor)
    angles = imagined[..., 2]  # [H, B], radians
    alive = trajectory.continues.cumprod(dim=0)  # [H, B], probability that the episode still goes on
    print("step   left: angle  alive   right: angle  alive")
    for step in range(HORIZON):
        left, right = (f"{angles[step, b]:+.3f}  {alive[step, b]:5.2f}" for b in (0, 1))
        print(f"{step + 1:4d}         {left}          {right}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
