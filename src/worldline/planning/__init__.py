"""Planning with a world model: sample sequences of actions, imagine what they lead to, move to the best ones.

`mppi` and `cem` search over distributions of sequences (`sequences`), for N environments at once. What a sequence is
worth is a function of theirs; `sequence_values` is that function for any world model with a value and a discount.
"""

from __future__ import annotations

from worldline.planning.search import Plan, cem, mppi
from worldline.planning.sequences import CategoricalSequences, NormalSequences, Sequences, every_sequence
from worldline.planning.values import PlanningModel, sequence_values

__all__ = [
    "CategoricalSequences",
    "NormalSequences",
    "Plan",
    "PlanningModel",
    "Sequences",
    "cem",
    "every_sequence",
    "mppi",
    "sequence_values",
]
