"""Action repeat, pixels, resizing, and the settings of make_env that ask for them."""

import numpy as np
import pytest
from gymnasium import spaces

from worldline.envs.make import make_env
from worldline.envs.rows import RowEnv
from worldline.envs.wrappers import ActionRepeat, Landing, Pixels, Resize, image_size_of
from worldline.errors import ConfigError

from .counting import Counting


def test_repeats_sum_rewards_and_stop_at_the_end():
    env = ActionRepeat(Counting(), 2)
    env.reset(seed=0)  # three steps: 0, 10, 20
    assert env.step(1)[1:4] == (0 + 1 + 10 + 1, False, False)
    obs, reward, terminated, truncated, _ = env.step(1)
    assert (obs.tolist(), reward, terminated, truncated) == ([0, 3], 21, True, False)


def test_pixels_alone_and_beside_the_state():
    env = Pixels(Counting(render_mode="rgb_array"), (2, 3), keep_state=False)
    env.reset(seed=5)
    obs, reward, terminated, truncated, _ = env.step(1)
    assert env.observation_space == spaces.Box(0, 255, (2, 3, 3), np.uint8)
    assert (obs.shape, obs.dtype, obs.flat[0]) == ((2, 3, 3), np.uint8, 1)
    assert (reward, terminated, truncated) == (1.0, False, False)
    both = RowEnv(Pixels(Counting(render_mode="rgb_array"), (2, 3), keep_state=True))
    obs, _ = both.reset(seed=5)
    assert both.data_spec.obs_shape == {"pixels": (2, 3, 3), "state": (2,)}
    assert obs["state"].tolist() == [5, 0]


def test_an_environment_that_renders_nothing_is_refused():
    class Blind(Counting):
        def render(self):
            return None

    with pytest.raises(ConfigError, match="does not render"):
        Pixels(Blind(), (2, 2), keep_state=False).reset()


def test_resizing_takes_the_mean_of_the_area():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    assert Resize((2, 2))(image)[..., 0].tolist() == [[3, 5], [11, 13]]  # 2.5, 4.5, 10.5, 12.5, rounded up
    assert Resize((4, 4))(image) is image
    assert Resize((8, 4))(image)[:, 0, 0].tolist() == [0, 0, 4, 4, 8, 8, 12, 12]
    thirds = Resize((1, 2))(np.array([[[0], [90], [210]]], np.uint8))  # (0 + 90/2) / 1.5, (90/2 + 210) / 1.5
    assert thirds[..., 0].tolist() == [[30, 170]]
    white = np.full((210, 160, 3), 255, np.uint8)
    assert (Resize((64, 64))(white) == 255).all()


def test_image_sizes():
    assert image_size_of(64) == (64, 64)
    assert image_size_of((48, 64)) == (48, 64)
    for wrong in (0, (64,), (64, -1), "64"):
        with pytest.raises(ConfigError, match="image_size"):
            image_size_of(wrong)


def test_make_env_counts_the_time_limit_before_the_repeat():
    env = make_env("Pendulum-v1", max_episode_steps=5, action_repeat=2)
    env.reset(seed=0)
    flags = [env.step(np.zeros(1))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]


def test_make_env_reports_statistics():
    env = make_env("CartPole-v1", max_episode_steps=2, episode_statistics=True)
    env.reset(seed=0)
    env.step(np.array([1.0, 0.0]))
    info = env.step(np.array([1.0, 0.0]))[4]
    assert (info["episode"]["r"], info["episode"]["l"]) == (2.0, 2)


def test_make_env_renders_any_environment():
    pytest.importorskip("pygame")
    env = make_env("CartPole-v1", observe="both", image_size=(40, 60))
    obs, _ = env.reset(seed=0)
    assert obs["pixels"].shape == (40, 60, 3)
    assert obs["pixels"].dtype == np.uint8
    assert obs["pixels"].std() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observe": "everything"}, "observe must be"),
        ({"action_repeat": 0}, "action_repeat must be at least 1"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_env("CartPole-v1", **settings)


class Ending(Counting):
    """Counting, but for the reward of its last step."""

    last_reward = 0.0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, self.last_reward if terminated else reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("reward", "outcome"), [(100, (True, False)), (-100, (False, True)), (99, (False, False)), (-101, (False, False))]
)
def test_a_landing_says_how_it_ended(reward, outcome):
    env = Ending()
    env.last_reward = reward
    env = Landing(env)
    env.reset(seed=0)  # three steps
    steps = [env.step(0) for _ in range(3)]
    assert [(info["success"], info["crashed"]) for *_, info in steps] == [(False, False), (False, False), outcome]
    assert steps[-1][1:4] == (reward, True, False)


def test_lunar_lander_says_that_it_crashed():
    pytest.importorskip("Box2D")
    env = make_env("LunarLander-v3", continuous=True)
    env.reset(seed=3)
    for _ in range(500):
        _, reward, terminated, _, info = env.step(np.array([1.0, 1.0], np.float32))  # both engines: it tumbles
        if terminated:
            break
        assert (info["success"], info["crashed"]) == (False, False)
    assert (reward, info["success"], info["crashed"]) == (-100, False, True)
