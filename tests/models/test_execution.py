"""Carrying out chunks: which actions are taken when, worked out by hand."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from worldline.errors import ConfigError, DataError
from worldline.models.chunks import ChunkConfig, ChunkPolicy
from worldline.models.execution import blend, remember


class Counting(ChunkPolicy):
    """The j-th chunk it makes of an observation x is 100 j + x + 0, 1, 2, ...; all chunks of a call are one."""

    family: ClassVar[str] = "counting"

    def __init__(self, config: ChunkConfig) -> None:
        super().__init__(config, kind="range")
        self.seen: list[Tensor] = []

    def chunk_loss(self, inputs: Any, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        self.actions_seen, self.mask_seen, self.inputs_seen = actions, mask, inputs
        return {"loss": actions.sum()}

    def chunk(self, inputs: Any, noise: Tensor) -> Tensor:
        self.seen.append(inputs.vectors)
        rows = torch.arange(self.config.horizon, dtype=torch.float32)
        made = inputs.vectors[:, -1:] + rows[None, :, None] + 100 * (len(self.seen) - 1)  # [N, H, 1]
        return made / 1000


def counting(**settings: Any) -> Counting:
    model = Counting(ChunkConfig(obs_shape=(1,), action_dim=1, **settings))
    model.inputs.normalizer.fitted.fill_(True)  # shifts by 0, scales by 1
    model.actions.fitted.fill_(True)
    return model


def run(model: Counting, num_steps: int, begins: tuple[int, ...] = ()) -> list[float]:
    """Act on observation 0 in one environment; return the actions times 1000."""
    state, taken = None, []
    for step in range(num_steps):
        is_first = torch.tensor([step == 0 or step in begins])
        actions, state = model.act(torch.zeros(1, 1), state, is_first=is_first)
        taken.append(round(float(actions[0, 0]) * 1000, 3))
    return taken


def test_a_chunk_is_carried_out_from_the_present_on():
    # Of rows 0 to 4, row 0 is of the past; rows 1, 2 and 3 are taken.
    assert run(counting(horizon=5, num_obs=2, num_executed=3), 7) == [1, 2, 3, 101, 102, 103, 201]


def test_a_new_episode_drops_the_chunk():
    assert run(counting(horizon=5, num_obs=2, num_executed=3), 5, begins=(2,)) == [1, 2, 101, 102, 103]


def test_only_environments_that_need_a_chunk_get_one():
    model = counting(horizon=4, num_obs=1, num_executed=3)
    state = None
    for step in range(4):
        is_first = torch.tensor([step == 0, step in (0, 1)])
        _, state = model.act(torch.tensor([[1.0], [2.0]]), state, is_first=is_first)
    # Both at step 0; the second begins anew at step 1; the first is due at step 3, the second at step 4.
    assert [seen[:, 0, 0].tolist() for seen in model.seen] == [[1.0, 2.0], [2.0], [1.0]]


def test_temporal_ensembling_weighs_the_oldest_chunk_most():
    m = 0.5
    taken = run(counting(horizon=3, num_obs=1, num_executed=1, ensemble_rate=m), 4)
    # What chunk j, made at step j, planned for step t is 100 j + (t - j); three chunks overlap.
    for t, action in enumerate(taken):
        chunks = range(max(0, t - 2), t + 1)
        weights = [math.exp(-m * index) for index, _ in enumerate(chunks)]
        planned = [100 * j + (t - j) for j in chunks]
        expected = sum(w * a for w, a in zip(weights, planned, strict=True)) / sum(weights)
        assert action == pytest.approx(expected, abs=2e-3)


def test_ensembling_begins_anew_with_an_episode():
    taken = run(counting(horizon=3, num_obs=1, num_executed=1, ensemble_rate=0.5), 3, begins=(2,))
    assert taken[2] == 200


def test_blending_keeps_what_nothing_was_planned_for():
    plan, count = blend(torch.zeros(1, 2, 1), torch.tensor([[1, 0]]), torch.full((1, 2, 1), 3.0), 0.0)
    assert plan.flatten().tolist() == [1.5, 3.0]
    assert count.tolist() == [[2, 1]]


def test_the_first_observation_is_repeated_before_an_episode():
    history = remember({"obs": torch.tensor([[1.0], [2.0]])}, None, torch.tensor([True, True]), 3)
    history = remember({"obs": torch.tensor([[3.0], [4.0]])}, history, torch.tensor([False, True]), 3)
    assert history["obs"][..., 0].tolist() == [[1.0, 1.0, 3.0], [4.0, 4.0, 4.0]]


def test_what_a_window_teaches():
    """Rows beyond the episode repeat the nearest action and weigh nothing, nor do windows without a present."""
    from worldline.data.buffer import ReplayBuffer

    buffer = ReplayBuffer(10, (1,), 1, action_sizes=())
    buffer.add_episode([[1.0], [2.0], [3.0]], [[0.1], [0.2], [0.3]], [0.0] * 3, terminated=False, truncated=True)
    model = counting(horizon=4, num_obs=2, num_executed=1)
    batch = buffer.sample(200, 4, windows=model.windows)
    model.compute_loss(batch)
    found = {
        (
            tuple(vectors.round(decimals=1).tolist()),
            tuple(actions.mul(10).round().int().tolist()),
            tuple(mask.tolist()),
        )
        for vectors, actions, mask in zip(
            model.inputs_seen.vectors[..., 0], model.actions_seen[..., 0], model.mask_seen, strict=True
        )
    }
    yes, no = True, False
    assert found == {
        ((1.0, 1.0), (1, 1, 2, 3), (no, yes, yes, yes)),
        ((1.0, 2.0), (1, 2, 3, 3), (yes, yes, yes, no)),
        ((2.0, 3.0), (2, 3, 3, 3), (yes, yes, no, no)),
        ((3.0, 3.0), (3, 3, 3, 3), (no, no, no, no)),
    }


def test_what_is_refused():
    for settings, message in (
        ({"action_type": "discrete"}, "Use bc"),
        ({"horizon": 4, "num_obs": 5}, "num_obs must be between 1 and 4"),
        ({"horizon": 4, "num_obs": 2, "num_executed": 4}, "num_executed must be between 1 and 3"),
        ({"ensemble_rate": -1.0}, "ensemble_rate must be at least 0"),
        ({"action_dim": 0}, "action_dim must be between 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            ChunkConfig(**{"obs_shape": (1,), "action_dim": 1, **settings})
    unfitted = Counting(ChunkConfig(obs_shape=(1,), action_dim=1))
    with pytest.raises(DataError, match="call model"):
        unfitted.act(torch.zeros(1, 1))


def test_windows_that_are_too_short():
    from worldline.data.buffer import ReplayBuffer

    buffer = ReplayBuffer(10, (1,), 1, action_sizes=())
    buffer.add_episode([[1.0], [2.0]], [[0.1], [0.2]], [0.0, 0.0], terminated=False, truncated=True)
    model = counting(horizon=4, num_obs=1, num_executed=1)
    with pytest.raises(DataError, match="sequence_length=4"):
        model.compute_loss(buffer.sample(2, 3, windows=model.windows))
