"""TD-MPC2 (Hansen, Su, Wang: "TD-MPC2: Scalable, Robust World Models for Continuous Control", ICLR 2024).

What is implemented, by the paper's equations and the reference code:

- section 3.1: networks of linear layers, layer norm and Mish; latent states on simplices (`nn.normed`, `networks`)
- eq. 3: consistency of latent states over the horizon, reward and value as two-hot regression of symlogs, each step
  weighing rho times the one before (`model`); the lesser of two random target values of five as target
- eq. 4: the policy prior, trained on detached states against the mean of two values, divided by their running range
- eq. 5, 6: planning by MPPI with proposals of the policy and a warm start (`acting`, `planning`)
- the termination head, discounts by the length of an episode, task embeddings and masks of actions (later code)

Where it differs, and why:

- Windows may be of any length: they are cut into segments of H steps (`segments`), and what is not real is masked.
- One backward pass serves both optimisers: the policy sees the values before their update, not after it.
- The termination head is on by default: environments end episodes, and data say whether a step did.
- Images of other sizes than 64 x 64 are resized; they are shifted at random in training only. Vectors and images may
  come together.
- Discrete actions, which the paper leaves out: the policy is categorical, and its loss takes the exact mean of the
  values over all choices, instead of one sample's; planning draws one-hot sequences from categorical distributions.
- `act(deterministic=True)` plans with noise of a fixed seed, and the terminal value is that of the policy's mode.
"""

from __future__ import annotations

from worldline.models.tdmpc2.acting import ActorState
from worldline.models.tdmpc2.config import SIZES, TDMPC2Config
from worldline.models.tdmpc2.model import TDMPC2, State

__all__ = ["SIZES", "TDMPC2", "ActorState", "State", "TDMPC2Config"]
