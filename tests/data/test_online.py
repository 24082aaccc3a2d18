"""OnlineSampler: what it collects, when, and that it goes on exactly where a checkpoint was."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from envs.counting import Counting
from worldline.data.buffer import ReplayBuffer
from worldline.data.online import OnlineSampler
from worldline.envs.make import make_vec_env
from worldline.envs.rows import RowEnv
from worldline.envs.vector import VectorEnv
from worldline.errors import ConfigError, DataError, FileError
from worldline.evaluation.rollout import RandomPolicy
from worldline.protocols import Sampler, Seekable


class Remembering(torch.nn.Module):
    """Acts by a count of its calls in each episode, by noise and by a weight, and remembers the count."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.calls = 0

    def act(self, obs, state=None, *, is_first=None, deterministic=False):
        assert not self.training
        self.calls += 1
        count = torch.zeros(len(obs)) if state is None else state["count"][0] + 1
        count = torch.where(is_first, 0.0, count)
        index = (count + torch.rand(len(obs)) * 2 + self.weight).long() % 2
        return torch.nn.functional.one_hot(index, 2).float(), {"count": (count, None)}


def counting(num_envs=2, env=Counting):
    return VectorEnv([RowEnv(env()) for _ in range(num_envs)])


def make(tmp_path=None, env=None, policy=None, capacity=10_000, **settings):
    env = env or counting()
    spec = env.data_spec
    buffer = ReplayBuffer(capacity, spec.obs_shape, spec.action_dim, action_sizes=spec.action_sizes)
    settings = {"seed_steps": 10, "replay_ratio": 0.5, **settings}
    policy = policy or Remembering()
    return OnlineSampler(env, policy, buffer, seed_policy=RandomPolicy(spec), replay_dir=tmp_path, **settings)


def draw(sampler, steps, seed=3):
    """Return what the trainer would get at these steps, as plain values."""
    batches = []
    for step in steps:
        sampler.seek(seed=seed, step=step)
        batch = sampler.sample(4, 3)
        batches.append(
            [batch[name].tolist() for name in ("obs", "actions", "rewards", "terminations", "step_mask", "obs_mask")]
        )
    return batches


def test_it_is_what_the_trainer_asks_for():
    assert isinstance(make(), Sampler)
    assert isinstance(make(), Seekable)


def test_every_transition_is_recorded_once_and_exactly():
    sampler = make()
    draw(sampler, range(100))
    episodes = list(sampler.buffer.episodes())
    assert sampler.num_episodes == len(episodes) > 20
    first = sampler._first_seed
    seeds = []
    for episode in episodes:
        seed = episode.meta["seed"]
        seeds.append(seed)
        length = 3 + seed % 4
        assert episode.obs.tolist() == [[seed % 1_000_000, t] for t in range(length)]
        assert episode.final_obs.tolist() == [seed % 1_000_000, length]
        assert episode.rewards.tolist() == [10 * t + a for t, a in enumerate(episode.actions.argmax(axis=1).tolist())]
        assert (episode.terminated, episode.truncated) == (seed % 2 == 0, seed % 2 == 1)
    in_progress = sum(len(recording.rewards) for recording in sampler._open)
    assert sum(map(len, episodes)) + in_progress == sampler.env_steps
    running = [int(env.unwrapped.seed) for env in sampler._env.envs]
    assert sorted([*seeds, *running]) == list(range(first, first + len(seeds) + 2))


def test_steps_are_taken_at_the_replay_ratio():
    sampler = make(replay_ratio=0.25, seed_steps=10)
    taken = []
    for step in range(5):
        draw(sampler, [step])
        taken.append(sampler.env_steps)
    assert taken == [14, 18, 22, 26, 30]
    draw(sampler, [4, 0])  # steps that are past ask for nothing
    assert sampler.env_steps == 30
    fast = make(replay_ratio=3, seed_steps=11)
    taken = []
    for step in range(8):
        draw(fast, [step])
        taken.append(fast.env_steps)
    assert taken == [12, 12, 12, 14, 14, 14, 14, 14]  # of 11 + 1, 1, 1, 2, 2, 2, 3, 3, in pairs


def test_seed_steps_are_the_seed_policys():
    policy = Remembering()
    sampler = make(policy=policy, seed_steps=20, replay_ratio=1)
    draw(sampler, [0])
    assert (sampler.env_steps, policy.calls) == (22, 1)


def test_collection_goes_on_until_there_is_an_episode():
    sampler = make(env=make_vec_env("Pendulum-v1", 2), policy=RandomPolicy(make_vec_env("Pendulum-v1", 1).data_spec))
    draw(sampler, [0])
    assert (sampler.env_steps, sampler.num_episodes) == (400, 2)
    draw(sampler, range(1, 195))
    assert sampler.env_steps == 400  # it waits for the optimiser to catch up
    draw(sampler, [196])
    assert sampler.env_steps == 404


def test_collecting_leaves_the_generator_alone_and_depends_on_the_seed_only():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(make(), range(30))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert draw(make(), range(30)) == first
    assert draw(make(seed=1), range(30)) != first


def test_the_policy_of_the_moment_acts():
    policy = Remembering()
    sampler = make(policy=policy)
    first = draw(sampler, range(30))
    changed = Remembering()
    other = make(policy=changed)
    assert draw(other, range(10)) == first[:10]
    with torch.no_grad():
        changed.weight += 1
    assert draw(other, range(10, 30)) != first[10:]


@pytest.mark.parametrize("capacity", [10_000, 25])
@pytest.mark.parametrize("stop", [1, 2, 7, 20])
def test_a_restored_sampler_goes_on_exactly(tmp_path, stop, capacity):
    whole = make(capacity=capacity)
    expected = draw(whole, range(40))
    sampler = make(tmp_path, capacity=capacity)
    draw(sampler, range(stop // 2))
    sampler.state_dict()  # an earlier checkpoint
    draw(sampler, range(stop // 2, stop))
    state = json.loads(json.dumps(sampler.state_dict()))
    draw(sampler, range(stop, stop + 5))  # was killed here
    sampler.state_dict()
    resumed = make(tmp_path, capacity=capacity)
    resumed.load_state_dict(state)
    assert draw(resumed, range(stop, 40)) == expected[stop:]
    assert resumed.env_steps == whole.env_steps
    assert (resumed.num_episodes > resumed.buffer.num_episodes) == (capacity == 25)  # some were evicted
    again = make(tmp_path, capacity=capacity)
    again.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
    assert draw(again, range(40, 60)) == draw(whole, range(40, 60))


def test_images_and_dicts_are_restored(tmp_path):
    class Dicts(Counting):
        observation_space = gym.spaces.Dict(
            image=gym.spaces.Box(0, 255, (2, 2, 3), np.uint8), n=gym.spaces.Box(0, 99, (1,), np.float32)
        )

        def _obs(self):
            return {"image": np.full((2, 2, 3), self.count, np.uint8), "n": np.array([self.count], np.float32)}

    def dicts(directory):
        env = counting(env=Dicts)
        return make(directory, env=env, policy=RandomPolicy(env.data_spec))

    def drawn(sampler, steps):
        seen = []
        for step in steps:
            sampler.seek(seed=0, step=step)
            seen.append(sampler.sample(3, 4).obs["image"].tolist())
        return seen

    expected = drawn(dicts(tmp_path / "a"), range(30))
    sampler = dicts(tmp_path / "b")
    drawn(sampler, range(13))
    resumed = dicts(tmp_path / "b")
    resumed.load_state_dict(sampler.state_dict())
    assert drawn(resumed, range(13, 30)) == expected[13:]
    assert resumed.buffer.sample(1, 2).obs["image"].dtype == torch.uint8


def test_an_environment_that_cannot_be_replayed_begins_a_new_episode(tmp_path):
    class Drifting(Counting):
        drift = 0.0

        def _obs(self):
            return np.array([self.seed % 1_000_000, self.count + self.drift])

    sampler = make(tmp_path, env=counting(env=Drifting))
    draw(sampler, range(5))
    state = sampler.state_dict()
    Drifting.drift = 0.5
    resumed = make(tmp_path, env=counting(env=Drifting))
    with pytest.warns(UserWarning, match="2 of 2 environments did not come to the same observations"):
        resumed.load_state_dict(state)
    assert all(not recording.rewards for recording in resumed._open)
    draw(resumed, range(5, 30))
    for episode in resumed.buffer.episodes():
        assert len(episode) == 3 + int(episode.obs[0, 0]) % 4


def test_offline_episodes_are_sampled_too():
    sampler = make()
    for _ in range(50):
        sampler.buffer.add_episode(np.full((5, 2), -7.0), np.zeros(5, int), np.zeros(5), terminated=True)
    batches = draw(sampler, range(3))
    assert any(-7.0 in np.array(batch[0]) for batch in batches)
    assert sampler.env_steps == 16  # the data does not replace the seed steps


def test_metrics():
    sampler = make()
    draw(sampler, range(20))
    metrics = sampler.metrics()
    assert metrics["env_steps"] == sampler.env_steps == 50
    assert metrics["episodes"] == sampler.num_episodes
    returns = [float(episode.rewards.sum()) for episode in sampler.buffer.episodes()]
    assert metrics["collect/return"] == pytest.approx(np.mean(returns))
    assert metrics["collect/steps_per_second"] > 0
    assert metrics["learn/steps_per_second"] > 0
    with sampler.paused():
        pass
    assert "collect/return" not in sampler.metrics()


def test_missing_and_damaged_files_are_named(tmp_path):
    sampler = make(tmp_path)
    draw(sampler, range(5))
    state = sampler.state_dict()
    path = tmp_path / "episodes_00000000.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(FileError, match=r"episodes_00000000\.npz is damaged"):
        make(tmp_path).load_state_dict(state)
    path.unlink()
    with pytest.raises(FileError, match=r"episodes_00000000\.npz is missing"):
        make(tmp_path).load_state_dict(state)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        make(tmp_path).load_state_dict({**state, "arrays": "nonsense"})


def test_wrong_use():
    for wrong in ({"seed_steps": -1}, {"replay_ratio": 0}, {"seed": -1}, {"replay_ratio": float("inf")}):
        with pytest.raises(ConfigError, match="OnlineSampler needs"):
            make(**wrong)
    with pytest.raises(ConfigError, match="replay_dir"):
        make().state_dict()
    with pytest.raises(ConfigError, match="replay_dir"):
        make().load_state_dict({})
