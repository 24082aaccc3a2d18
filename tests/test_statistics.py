"""Statistics in one pass equal those of the whole column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.data.buffer import ReplayBuffer
from worldline.errors import DataError
from worldline.statistics import ColumnStatistics, flat_statistics


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1e6]),
)
def test_pieces_add_up(lengths: list[int], seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    pieces = [rng.normal(offset, [1.0, 30.0, 0.0], size=(length, 3)) for length in lengths]
    found, whole = ColumnStatistics.of(pieces), np.concatenate(pieces)
    assert found.count == len(whole)
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, whole.std(0), rtol=1e-6, atol=1e-9)
    assert found.low.tolist() == whole.min(0).tolist()
    assert found.high.tolist() == whole.max(0).tolist()


def test_no_rows_have_no_statistics() -> None:
    with pytest.raises(DataError, match="no steps"):
        ColumnStatistics.of([np.zeros((0, 2))])


def test_a_buffer_knows_those_of_its_steps() -> None:
    """Closing rows do not count, images are left out, commands are there."""
    buffer = ReplayBuffer(100, {"a": (2,), "pixels": (8, 8, 3)}, 1)
    for reward in (1.0, 3.0):
        obs = {"a": np.array([[0.0, 5.0], [2.0, 5.0]]) * reward, "pixels": np.zeros((2, 8, 8, 3), np.uint8)}
        final = {"a": np.array([99.0, 99.0]), "pixels": np.zeros((8, 8, 3), np.uint8)}
        buffer.add_episode(obs, np.array([[0.5], [-0.5]]), [0.0, reward], terminated=True, final_obs=final)
    found = buffer.statistics()
    assert sorted(found) == ["actions", "commands", "obs.a", "rewards"]
    assert found["obs.a"].high.tolist() == [6.0, 15.0]
    assert found["obs.a"].mean.tolist() == [2.0, 10.0]
    assert found["commands"].low.tolist() == [1.0, 1.0]
    assert found["commands"].high.tolist() == [2.0, 3.0]
    assert found["commands"].mean.tolist() == [1.5, 2.0]


def test_columns_side_by_side():
    first = ColumnStatistics.of([np.array([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 2.0], [3.0, 0.0]]])])
    second = ColumnStatistics.of([np.array([5.0, 7.0])])
    joined = flat_statistics([first, second])
    assert joined.count == 2
    assert joined.mean.tolist() == [2, 2, 3, 2, 6]
    assert joined.std.tolist() == [1, 0, 0, 2, 1]
    assert joined.low.tolist() == [1, 2, 3, 0, 5]
    assert joined.high.tolist() == [3, 2, 3, 4, 7]
