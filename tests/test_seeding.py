from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from worldline.seeding import isolated, rng_state, seed_everything, set_rng_state


def test_a_seed_makes_the_same_numbers():
    seed_everything(3)
    first = torch.rand(4)
    seed_everything(3)
    assert torch.equal(torch.rand(4), first)
    seed_everything(4)
    assert not torch.equal(torch.rand(4), first)


def test_a_restored_state_goes_on_where_it_was():
    seed_everything(0)
    torch.rand(7)
    state = rng_state()
    expected = torch.rand(5)
    torch.rand(100)
    set_rng_state(state)
    assert torch.equal(torch.rand(5), expected)


def test_the_state_is_plain_tensors():
    assert all(state.dtype == torch.uint8 for state in rng_state().values())


def test_states_of_accelerators_that_are_gone_are_skipped():
    set_rng_state({**rng_state(), "cuda99": torch.zeros(16, dtype=torch.uint8)})


def test_isolated_leaves_no_trace_even_after_an_error():
    before = rng_state()["cpu"]
    drawn = []

    def fail() -> None:
        with isolated(5):
            drawn.append(torch.rand(3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(rng_state()["cpu"], before)
    with isolated(5):
        assert torch.equal(torch.rand(3), drawn[0])


def test_only_torch_is_touched():
    numpy_state, python_state = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - what is checked
    seed_everything(1)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert random.getstate() == python_state
