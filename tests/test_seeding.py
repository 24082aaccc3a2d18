from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from worldline.seeding import continuing, isolated, repeatable, rng_state, seed_everything, set_rng_state


class FakeCuda:
    """Two generators in the place of two GPUs: as torch has it, seeds wait until CUDA is used for the first time."""

    def __init__(self) -> None:
        self.generators = [torch.Generator(), torch.Generator()]
        self.is_used = False
        self.waiting_seed = torch.initial_seed()

    def draw(self, index: int = 1) -> float:
        if not self.is_used:
            self.is_used = True
            self.seed_all(self.waiting_seed)
        return torch.rand((), generator=self.generators[index]).item()

    def seed_all(self, seed: int) -> None:
        self.waiting_seed = seed
        for generator in self.generators if self.is_used else ():
            generator.manual_seed(seed)

    def states(self) -> list[torch.Tensor]:
        assert self.is_used, "asking for its state would start CUDA"
        return [generator.get_state() for generator in self.generators]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name, function in {
        "is_available": lambda: True,
        "is_initialized": lambda: fake.is_used,
        "device_count": lambda: 2,
        "manual_seed_all": fake.seed_all,
        "get_rng_state_all": fake.states,
        "set_rng_state": lambda state, index: fake.generators[index].set_state(state),
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    return fake


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> torch.Generator:
    generator = torch.Generator()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name, function in {
        "manual_seed": generator.manual_seed,
        "get_rng_state": generator.get_state,
        "set_rng_state": generator.set_state,
    }.items():
        monkeypatch.setattr(torch.mps, name, function)
    return generator


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
    gone = torch.zeros(16, dtype=torch.uint8)
    set_rng_state({**rng_state(), "cuda99": gone, "mps": gone})


def test_every_gpu_in_use_is_captured_and_restored(cuda: FakeCuda):
    assert rng_state().keys() == {"cpu"}
    seed_everything(5)
    cuda.draw()
    state = rng_state()
    assert state.keys() == {"cpu", "cuda0", "cuda1"}
    expected = [cuda.draw(0), cuda.draw(1)]
    set_rng_state(state)
    assert [cuda.draw(0), cuda.draw(1)] == expected


def test_mps_is_captured_and_restored(mps: torch.Generator):
    seed_everything(5)
    state = rng_state()
    assert state.keys() == {"cpu", "mps"}
    expected = torch.rand(3, generator=mps)
    set_rng_state(state)
    assert torch.equal(torch.rand(3, generator=mps), expected)
    with isolated(8):
        first = torch.rand(3, generator=mps)
    with isolated(8):
        assert torch.equal(torch.rand(3, generator=mps), first)
    set_rng_state(state)
    assert torch.equal(torch.rand(3, generator=mps), expected)


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


@pytest.mark.parametrize("used_before", [True, False])
@pytest.mark.parametrize("used_inside", [True, False])
def test_isolated_leaves_no_trace_on_gpus(cuda: FakeCuda, used_before: bool, used_inside: bool):
    def run(body: Callable[[], None]) -> float:
        cuda.is_used = False
        seed_everything(3)
        if used_before:
            cuda.draw()
        body()
        return cuda.draw()

    inside: list[float] = []

    def disturb() -> None:
        with isolated(5):
            if used_inside:
                inside.append(cuda.draw())

    expected = run(lambda: None)
    assert run(disturb) == run(disturb) == expected
    assert len(set(inside)) == used_inside  # its own seed reaches the GPU as well
    assert inside == [] or inside[0] == torch.rand((), generator=torch.Generator().manual_seed(5)).item()


def test_only_torch_is_touched():
    numpy_state, python_state = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - what is checked
    seed_everything(1)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert random.getstate() == python_state


def test_a_stream_of_its_own_goes_on_between_other_draws() -> None:
    with isolated(5):
        states = rng_state()
        expected = torch.rand(6)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = []
    for _ in range(3):
        with continuing(states):
            drawn.append(torch.rand(2))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.cat(drawn), expected)


def test_code_of_others_is_repeatable_and_leaves_no_trace():
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    seed_everything(1)
    expected = draw()
    seed_everything(1)
    random_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    drawn = []
    for seed in (5, 5, 6):
        with repeatable(seed):
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])
    assert random.getstate() == random_state
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert torch.rand(()) == expected[2]
