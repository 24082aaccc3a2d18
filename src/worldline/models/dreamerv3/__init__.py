"""DreamerV3 (Hafner, Pasukonis, Ba, Lillicrap: "Mastering Diverse Domains through World Models", Nature 2025).

What is implemented, by the paper's equations and the reference code:

- eq. 3: recurrent state-space model, block-diagonal GRU, 32 categorical latents with 1% uniform mix (`rssm`, `scan`)
- eq. 4, 5: reconstruction, reward and continuation losses; KL balancing by `dyn` and `rep` with 1 free nat (`model`)
- eq. 6 to 9: lambda-returns with the discount in the continuation, critic as two-hot regression with a slow copy as
  regulariser, actor by REINFORCE on advantages scaled by the range of returns (`behavior`)
- eq. 9, 10: symlog, symexp two-hot (`ops.twohot`)
- the replay value loss (`behavior`), LaProp, adaptive gradient clipping (`training.optim`) of the later reference code

Where it differs, and why:

- Rewards are stored where they are earned, not where they arrive; `rows` shifts them. What arrived at the first row of
  a window inside an episode is unknown, and its reward and continuation take no loss.
- Windows begin with a zero state (the reference may carry states over and store them in replay).
- An episode's end without its final observation is encoded as tokens of zero, so that its end is learnt.
- Images of any size: the border is repeated up to what the pooling needs (64 x 64 and its like are untouched).
- Multi-discrete actions are one-hot vectors side by side.
"""

from __future__ import annotations

from worldline.models.dreamerv3.config import SIZES, DreamerV3Config
from worldline.models.dreamerv3.model import ActorState, DreamerV3
from worldline.models.dreamerv3.rssm import State

__all__ = ["SIZES", "ActorState", "DreamerV3", "DreamerV3Config", "State"]
