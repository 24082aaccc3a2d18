"""worldline collect."""

import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from worldline.data.buffer import ReplayBuffer

from .tiny import run


def test_random_episodes(data):
    buffer = ReplayBuffer.load(data)
    assert buffer.num_episodes == 12
    assert (buffer.spec.action_type, buffer.spec.action_dim) == ("discrete", 2)
    episodes = list(buffer.episodes())
    assert [episode.meta["seed"] for episode in episodes] == list(range(12))
    assert {episode.meta["env"] for episode in episodes} == {"CartPole-v1"}
    assert all(episode.terminated and episode.final_obs is not None for episode in episodes)


def test_the_same_seed_gives_the_same_data(data, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        assert run("collect", "CartPole-v1", "--episodes", 12, "--seed", seed, "--out", tmp_path / f"{name}.npz") == 0
    first, same, other = (
        np.concatenate([episode.obs for episode in ReplayBuffer.load(path).episodes()])
        for path in (data, tmp_path / "same.npz", tmp_path / "other.npz")
    )
    np.testing.assert_array_equal(first, same)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_continuous_actions_are_stored_in_minus_one_to_one(tmp_path):
    out = tmp_path / "deep" / "pendulum.npz"
    assert run("collect", "Pendulum-v1", "--episodes", 2, "--out", out) == 0
    buffer = ReplayBuffer.load(out)
    assert (buffer.spec.action_type, buffer.spec.action_sizes) == ("continuous", ())
    episode = next(buffer.episodes())
    assert (episode.truncated, episode.terminated, len(episode)) == (True, False, 200)
    assert -1 <= episode.actions.min() < -0.9
    assert 0.9 < episode.actions.max() <= 1


def test_a_trained_policy_collects(finished_run, tmp_path):
    out = tmp_path / "learnt.npz"
    assert run("collect", "CartPole-v1", "--episodes", 2, "--policy", finished_run, "--out", out) == 0
    assert ReplayBuffer.load(out).num_episodes == 2


@pytest.mark.parametrize(("failure", "status"), [(KeyboardInterrupt, 130), (ZeroDivisionError, None)])
def test_what_was_finished_is_kept(data, tmp_path, monkeypatch, capsys, failure, status):
    """Of CartPole's random episodes some take longer than ones that began with them, and after them."""
    out, steps, step = tmp_path / "part.npz", [0], CartPoleEnv.step

    def fail(self, action):
        steps[0] += 1
        if steps[0] == 200:
            raise failure
        return step(self, action)

    monkeypatch.setattr(CartPoleEnv, "step", fail)
    arguments = ("collect", "CartPole-v1", "--episodes", 12, "--num-envs", 4, "--out", out)
    if status is None:
        with pytest.raises(failure):
            run(*arguments)
    else:
        assert run(*arguments) == status
    part, whole = list(ReplayBuffer.load(out).episodes()), list(ReplayBuffer.load(data).episodes())
    assert 0 < len(part) < 12
    assert f"has the first {len(part)} of 12 episodes." in " ".join(capsys.readouterr().err.split())
    for got, expected in zip(part, whole, strict=False):
        assert got.meta == expected.meta
        np.testing.assert_array_equal(got.obs[0], expected.obs[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CartPole-v9", "--out", "a.npz"], "Did you mean CartPole-v1"),
        (["CartPole-v1", "--out", "a.pkl"], "must end in .npz"),
        (["CartPole-v1", "--out", "."], "is a folder"),
        (["CartPole-v1", "--out", "a.npz", "--seed", "-1"], "--seed must be between 0 and 4294967295; got -1"),
        (["CartPole-v1", "--out", "a.npz", "--episodes", "0"], "--episodes must be at least 1; got 0."),
        (["CartPole-v1", "--out", "a.npz", "--policy", "nowhere"], "there is no such folder"),
    ],
)
def test_wrong_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("collect", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()


def test_a_file_is_only_overwritten_when_asked(tmp_path, capsys):
    out = tmp_path / "a.npz"
    out.write_text("precious")
    assert run("collect", "CartPole-v1", "--episodes", 1, "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert run("collect", "CartPole-v1", "--episodes", 1, "--out", out, "--overwrite") == 0
    assert ReplayBuffer.load(out).num_episodes == 1


def test_a_policy_for_another_environment_is_refused(finished_run, tmp_path, capsys):
    assert run("collect", "Pendulum-v1", "--policy", finished_run, "--out", tmp_path / "a.npz") == 2
    error = capsys.readouterr().err
    assert "obs_shape [4]" in error
    assert "[3]" in error


def test_a_scripted_policy_collects(tmp_path):
    for name, seed in (("first", 0), ("same", 0), ("other", 7)):
        arguments = ["--policy", "mixed", "--episodes", 4, "--seed", seed, "--out", tmp_path / f"{name}.npz"]
        assert run("collect", "CartPole-v1", *arguments) == 0
    first, same, other = (
        [episode.actions for episode in ReplayBuffer.load(tmp_path / f"{name}.npz").episodes()]
        for name in ("first", "same", "other")
    )
    assert all(np.array_equal(one, again) for one, again in zip(first, same, strict=True))
    assert not all(np.array_equal(one, another) for one, another in zip(first, other, strict=True))
    assert run("collect", "CartPole-v1", "--policy", "expert", "--episodes", 1, "--out", tmp_path / "best.npz") == 0
    assert ReplayBuffer.load(tmp_path / "best.npz").num_transitions == 500


def test_the_help_lists_scripted_policies(capsys):
    with pytest.raises(SystemExit):
        run("collect", "--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "CartPole-v1, LunarLander-v3, Pendulum-v1" in text
    assert "mixed" in text


def test_commands_are_for_models_that_take_them(finished_run, tmp_path, capsys):
    arguments = ["CartPole-v1", "--command", 20, 20, "--out", tmp_path / "a.npz"]
    assert run("collect", *arguments, "--policy", finished_run) == 2
    assert "takes no commands. Leave out --command." in capsys.readouterr().err
    assert run("collect", *arguments, "--policy", "mixed") == 2
    assert "The policy 'mixed' takes no commands" in capsys.readouterr().err


def test_an_expert_goes_by_what_its_data_leave_out(tmp_path):
    out = tmp_path / "reach.npz"
    keys = "obs_keys=[ee_pos, joint_pos]"
    assert run("collect", "robot:reach", "--policy", "expert", "--env-set", keys, "--episodes", 3, "--out", out) == 0
    episodes = list(ReplayBuffer.load(out).episodes())
    assert [episode.meta["success"] for episode in episodes] == [True] * 3
    assert episodes[0].meta["language"] == "reach the red ball"
    assert sorted(episodes[0].obs) == ["ee_pos", "joint_pos"]
