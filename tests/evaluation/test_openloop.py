"""Open-loop indices and means, with a model that knows the dynamics exactly."""

import dataclasses

import numpy as np
import pytest
import torch

from worldline.batch import Batch
from worldline.errors import ConfigError, DataError
from worldline.evaluation.openloop import open_loop_error

# The world: x' = 2 x + 3 a0 - a1. Each of its numbers depends on every action so far, so any slip of an index shows.


@dataclasses.dataclass
class State:
    x: torch.Tensor

    def map(self, function):
        return State(function(self.x))


@dataclasses.dataclass
class Future:
    states: State


class TrueModel:
    """Knows the world. `slip` imagines with actions of later rows, `lag` starts from earlier observations."""

    def __init__(self, slip=0, lag=0):
        self.slip, self.lag = slip, lag

    def observe(self, batch):
        return State(torch.roll(batch.obs, self.lag, dims=1))

    def imagine(self, state, actions):
        x, states = state.x, []
        for action in torch.roll(actions, -self.slip, dims=0):
            x = 2 * x + 3 * action[:, :1] - action[:, 1:]
            states.append(x)
        return Future(State(torch.stack(states)))

    def decode(self, state):
        return state.x


def world(lengths, *, rows, seed=0):
    """Return windows `[B, rows]` of episodes with these numbers of steps; what is not real is 1e6."""
    rng = np.random.default_rng(seed)
    num = len(lengths)
    obs = np.full((num, rows, 1), 1e6, np.float32)
    actions = np.full((num, rows, 2), 1e6, np.float32)
    steps = np.zeros((num, rows), bool)
    real = np.zeros((num, rows), bool)
    for window, length in enumerate(lengths):
        x = rng.normal()
        for row in range(min(length + 1, rows)):
            obs[window, row], real[window, row] = x, True
            if row < length:
                steps[window, row] = True
                actions[window, row] = rng.normal(size=2)
                x = 2 * x + 3 * actions[window, row, 0] - actions[window, row, 1]
    is_first = np.zeros((num, rows), bool)
    is_first[:, 0] = True
    tensors = [torch.from_numpy(array) for array in (obs, actions, steps, real, is_first)]
    return Batch(
        obs=tensors[0],
        actions=tensors[1],
        rewards=torch.zeros(num, rows),
        terminations=torch.zeros(num, rows, dtype=torch.bool),
        is_first=tensors[4],
        step_mask=tensors[2],
        obs_mask=tensors[3],
    )


@pytest.mark.parametrize(("context", "horizon"), [(1, 1), (1, 4), (3, 5), (5, 2)])
def test_the_true_model_has_no_error(context, horizon):
    result = open_loop_error(TrueModel(), [world([20] * 8, rows=10)], context=context, horizon=horizon)
    assert max(result.model_mse) < 1e-6
    assert min(result.copy_mse) > 1e-2
    assert (result.horizon, result.num_windows) == (horizon, (8,) * horizon)


@pytest.mark.parametrize("model", [TrueModel(slip=1), TrueModel(slip=-1), TrueModel(lag=1)])
def test_a_slip_of_one_row_shows(model):
    result = open_loop_error(model, [world([20] * 8, rows=10)], context=3, horizon=5)
    assert min(result.model_mse) > 1e-2


def test_only_real_observations_count():
    """Steps 4, 5, 9: with 3 rows of context, closing rows 4 and 5 are the last to predict."""
    result = open_loop_error(TrueModel(), [world([4, 5, 9, 1], rows=8)], context=3, horizon=4)
    assert result.num_windows == (3, 3, 2, 1)
    assert max(result.model_mse) < 1e-6
    assert max(result.copy_mse) < 1e5


def test_a_lost_final_observation_does_not_count():
    batch = world([4, 9], rows=8)
    batch.obs_mask[0, 4] = False
    assert open_loop_error(TrueModel(), [batch], context=3, horizon=2).num_windows == (2, 1)


def test_a_new_episode_in_the_window_ends_it():
    batch = world([9, 9], rows=8)
    batch.is_first[0, 4] = True
    assert open_loop_error(TrueModel(), [batch], context=3, horizon=3).num_windows == (2, 1, 1)


class Zero(TrueModel):
    def decode(self, state):
        return torch.zeros_like(state.x)


def two_components(values):
    """Return one window per pair of rows in `values [B, T, 2]`."""
    batch = world([20] * len(values), rows=len(values[0]))
    return dataclasses.replace(batch, obs=torch.tensor(values))


class ZeroPair(Zero):
    def decode(self, state):
        return torch.zeros(*state.x.shape[:2], 2)


def test_means_and_normalised_means_by_hand():
    batch = two_components([[[0.0, 10.0], [2.0, 30.0]], [[0.0, 10.0], [4.0, 10.0]]])
    result = open_loop_error(ZeroPair(), [batch], context=1, horizon=1)
    # squared errors of guessing 0: (4, 900) and (16, 100); of copying: (4, 400) and (16, 0)
    assert result.model_mse == ((10 + 500) / 2,)
    assert result.copy_mse == ((10 + 200) / 2,)
    # variances over the four rows: of 0, 2, 0, 4 it is 2.75; of 10, 30, 10, 10 it is 75
    assert result.model_normalised[0] == pytest.approx((10 / 2.75 + 500 / 75) / 2)
    assert result.copy_normalised[0] == pytest.approx((10 / 2.75 + 200 / 75) / 2)


def test_batches_are_weighted_by_their_windows():
    values = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32).tolist()
    whole = open_loop_error(ZeroPair(), [two_components(values)], context=2, horizon=2)
    parts = open_loop_error(ZeroPair(), [two_components(values[:1]), two_components(values[1:])], context=2, horizon=2)
    assert parts.model_mse == pytest.approx(whole.model_mse)
    assert parts.model_normalised == pytest.approx(whole.model_normalised)


def test_components_that_never_vary_are_left_out_of_the_normalised_mean():
    batch = two_components([[[0.0, 7.0], [2.0, 7.0]], [[0.0, 7.0], [4.0, 7.0]]])
    result = open_loop_error(ZeroPair(), [batch], context=1, horizon=1)
    assert result.model_normalised[0] == pytest.approx(10 / 2.75)


def test_examples_are_whole_windows():
    result = open_loop_error(TrueModel(), [world([2, 9, 9, 9], rows=8)], context=2, horizon=3, num_examples=2)
    assert (result.actual.shape, result.imagined.shape) == ((2, 5, 1), (2, 3, 1))
    np.testing.assert_allclose(result.imagined, result.actual[:, 2:], rtol=1e-5)
    none = open_loop_error(TrueModel(), [world([9], rows=8)], context=2, horizon=3, num_examples=0)
    assert none.actual.shape == (0, 5, 1)


def test_images_are_compared_in_zero_to_one_and_dicts_are_joined():
    batch = world([9], rows=4)
    image = torch.full((1, 4, 2, 2, 1), 255, dtype=torch.uint8)
    batch = dataclasses.replace(batch, obs={"image": image, "x": batch.obs})

    class Both(TrueModel):
        def observe(self, batch):
            return State(batch.obs["x"])

        def decode(self, state):
            return {"x": state.x, "image": torch.full((*state.x.shape[:2], 2, 2, 1), 0.5)}  # in another order

    result = open_loop_error(Both(), [batch], context=2, horizon=2)
    assert result.model_mse == pytest.approx((0.25 * 4 / 5,) * 2)


def test_noise_of_the_model_is_seeded_and_isolated():
    class Noisy(TrueModel):
        def decode(self, state):
            return state.x + torch.randn_like(state.x)

    before = torch.get_rng_state()
    one, same, other = (
        open_loop_error(Noisy(), [world([9], rows=4)], context=2, horizon=2, seed=seed).model_mse for seed in (0, 0, 1)
    )
    assert one == same != other
    assert torch.equal(before, torch.get_rng_state())


def test_wrong_input_is_refused():
    with pytest.raises(ConfigError, match="need windows of 9 rows; these have 8"):
        open_loop_error(TrueModel(), [world([9], rows=8)], context=4, horizon=5)
    with pytest.raises(ConfigError, match="at least 1"):
        open_loop_error(TrueModel(), [world([9], rows=8)], context=0, horizon=5)
    with pytest.raises(DataError, match="real observation 2 steps after 3 rows"):
        open_loop_error(TrueModel(), [world([3], rows=8)], context=3, horizon=3)
    with pytest.raises(DataError, match="no windows"):
        open_loop_error(TrueModel(), [], context=3, horizon=3)
