"""worldline inspect."""

import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from worldline.cli import terminal
from worldline.data.buffer import ReplayBuffer
from worldline.episode import Episode

from .tiny import run


def shown(capsys, *arguments):
    assert run("inspect", *arguments) == 0
    return " ".join(capsys.readouterr().out.split())


def test_models_with_their_published_sizes(capsys):
    text = shown(capsys, "models")
    assert "dreamerv3:size12m" in text
    assert "9,724,165" in text
    assert "dreamerv3:size400m" in text


def test_data_file(data, capsys):
    text = shown(capsys, data)
    for words in (
        "│ 12 │",
        "12 terminated, 0 truncated",
        "discrete, 2 wide",
        "CartPole-v1",
        "obs (4,) float32",
        "[3] -",
    ):
        assert words in text


@pytest.mark.parametrize("width", [80, 120])
def test_names_are_whole_on_a_terminal(tmp_path, capsys, monkeypatch, width):
    obs = {"robot0_joint_vel": np.full((5, 7), -1.2345e-6, np.float32), "agentview": np.zeros((5, 96, 96, 3), np.uint8)}
    episode = Episode(obs=obs, actions=np.zeros((5, 7)), rewards=np.zeros(5), terminated=True)
    ReplayBuffer.from_episodes([episode], action_dim=7).save(tmp_path / "a.npz")
    monkeypatch.setattr(terminal, "results", Console(width=width, force_terminal=True, no_color=True, highlight=False))
    assert run("inspect", tmp_path / "a.npz") == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    (joint,) = [line.split() for line in lines if "robot0" in line]
    assert joint == ["obs.robot0_joint_vel", "(7,)", "float32", *["-1.235e-06"] * 3]


def test_nothing_is_broken_in_a_pipe(tmp_path, capsys):
    obs = {f"camera_{'far_' * 30}": np.zeros((2, 3), np.float32), "b": np.zeros((2, 1), np.float32)}
    episode = Episode(obs=obs, actions=np.zeros((2, 1)), rewards=np.zeros(2), terminated=True)
    ReplayBuffer.from_episodes([episode], action_dim=1).save(tmp_path / "a.npz")
    assert run("inspect", tmp_path / "a.npz") == 0
    assert f"obs.camera_{'far_' * 30} " in capsys.readouterr().out


def test_run_with_its_checkpoints(finished_run, tmp_path, capsys):
    run_copy = tmp_path / "run"
    shutil.copytree(finished_run, run_copy)
    text = shown(capsys, run_copy)
    for words in ("dreamerv3:size1m", "units=8", "step 6 of 6", "checkpoints/step_00000003"):
        assert words in text
    assert text.count("intact") == 3
    (run_copy / "checkpoints" / "step_00000003" / "rng.safetensors").unlink()
    (run_copy / "final" / "model.safetensors").write_bytes(b"short")
    text = shown(capsys, run_copy)
    assert text.count("intact") == 1
    assert text.count("damaged") == 2


def test_run_whose_loss_was_not_always_logged(finished_run, tmp_path, capsys):
    run_copy = tmp_path / "run"
    shutil.copytree(finished_run, run_copy)
    lines = ['{"step": 2, "loss": null}', '{"step": 4, "loss": 7.5}', '{"step": 6, "eval/return": 9.0}']
    for count, words in ((1, "step 2 of 6 logged"), (3, "7.5 at first, 7.5 at last")):
        (run_copy / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines[:count]))
        assert words in shown(capsys, run_copy)


def test_saved_model(finished_run, capsys):
    text = shown(capsys, finished_run / "final")
    assert "numbers saved" in text
    assert "│ units │ 8 │" in text


def test_a_page_of_what_is_no_data_is_refused(finished_run, tmp_path, capsys):
    for target in (finished_run, "models"):
        assert run("inspect", target, "--report", tmp_path / "page.html") == 2
        assert "--report is for data" in capsys.readouterr().err


def test_wrong_targets(tmp_path, capsys):
    (tmp_path / "file.npz").write_text("nonsense")
    for target, message in ((tmp_path / "no", "There is no"), (tmp_path, "neither data, nor a run, nor a saved model")):
        assert run("inspect", target) == 2
        assert message in capsys.readouterr().err
    assert run("inspect", tmp_path / "file.npz") == 2
    assert "file.npz" in capsys.readouterr().err


def test_actions_that_no_policy_takes_are_told(tmp_path, capsys):
    for reach, is_told in ((1.0, False), (1.5, True)):
        actions = np.array([[-1.0, 0.0], [1.0, reach]])
        episode = Episode(obs=np.zeros((2, 3)), actions=actions, rewards=np.zeros(2), terminated=True)
        path = tmp_path / f"{reach}.npz"
        ReplayBuffer.from_episodes([episode], action_dim=2).save(path)
        assert ("1 of the actions leave [-1, 1]" in shown(capsys, path)) == is_told
