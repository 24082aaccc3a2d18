"""Policy states, taken apart and put together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from worldline.data.policy_state import pack, tensors_of, unpack, with_tensors
from worldline.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    a: torch.Tensor
    b: torch.Tensor | None = None


def state(start):
    return {"x": (Inner(a=torch.full((2, 3), start), b=None), [torch.full((2,), start + 1)]), "y": None}


def test_a_template_is_filled_with_the_tensors_of_another_state():
    tensors = tensors_of(state(5.0))
    filled = with_tensors(state(0.0), tensors)
    assert filled["x"][0].a.tolist() == [[5.0] * 3] * 2
    assert filled["x"][1][0].tolist() == [6.0, 6.0]
    assert filled["y"] is None
    assert isinstance(filled["x"], tuple)


def test_other_states_are_refused():
    with pytest.raises(DataError, match="same model"):
        with_tensors(state(0.0), [torch.zeros(1)])
    with pytest.raises(DataError, match="holds a int"):
        tensors_of({"count": 3})


def test_packing_keeps_every_bit():
    arrays = {"a": np.random.default_rng(0).random((3, 2)), "b": np.array([True]), "c": np.zeros((0, 4), np.float32)}
    unpacked = unpack(pack(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(unpacked[name], array)
        assert unpacked[name].dtype == array.dtype
    for damaged in ("?", pack(arrays)[:-8]):
        with pytest.raises(DataError, match="damaged"):
            unpack(damaged)
