"""The commands, one after the other, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from simscaleai.tools.cli import PROGRAM, main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


TINY = ["--set", "hidden_dim=16", "--set", "n_layers=1", "--num-workers", "0", "--device", "cpu", "--no-use-amp"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(list(arguments)) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_the_overview_and_the_lists(capsys: pytest.CaptureFixture[str]):
    overview = printed(capsys)
    assert all(f"  {name} " in overview for name in PROGRAM.commands)
    assert "reach " in printed(capsys, "list-envs")
    assert "diffusion_policy " in printed(capsys, "list-models")
    assert "Did you mean 'train'" in printed(capsys, "trian", status=2)


@pytest.mark.parametrize("name", sorted(PROGRAM.commands))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leaving:
        main([name, "--help"])
    assert leaving.value.code == 0
    assert f"simscale {name}" in capsys.readouterr().out


def test_help_does_not_wait_for_torch():
    code = "import sys, simscaleai.tools.cli as cli; cli.main([]); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_from_demonstrations_to_a_success_rate(folder: Path, capsys: pytest.CaptureFixture[str]):
    out = printed(capsys, "datagen", "--env", "reach", "--episodes", "5", "--out", "data/reach.h5")
    assert "Wrote 5 episodes" in out
    assert "--overwrite" in printed(capsys, "datagen", "--out", "data/reach.h5", status=2)
    train = ["train", "--model", "bc", "--dataset", "data/reach.h5", "--max-steps", "4", "--save-every", "2", *TINY]
    out = printed(capsys, *train, "--eval-env", "reach", "--eval-episodes", "2", "--eval-every", "2")
    assert "global_step             4" in out
    assert "Next: simscale eval checkpoints/final.pt --env reach" in out
    assert "eval/success_rate" in out
    config = torch.load(folder / "checkpoints" / "final.pt", weights_only=True)["config"]
    assert config["model_kwargs"] == {
        "action_dim": 4,
        "state_dim": 20,
        "state_keys": ["ee_pos", "joint_pos", "joint_vel", "target_pos"],
        "hidden_dim": 16,
        "n_layers": 1,
    }
    found = json.loads(printed(capsys, "eval", "checkpoints/final.pt", "--env", "reach", "--episodes", "2", "--json"))
    assert found["n_episodes"] == 2
    again = json.loads(printed(capsys, "eval", "checkpoints", "--env", "reach", "--episodes", "2", "--json"))
    assert again["mean_return"] == found["mean_return"]  # the folder of a run means its last checkpoint
    (folder / "checkpoints" / "final.pt").unlink()
    printed(capsys, "eval", "checkpoints", "--env", "reach", "--episodes", "1", "--max-steps", "2")
    assert "neither final.pt nor step_N.pt" in printed(capsys, "eval", "data", "--env", "reach", status=2)
    assert 0 <= found["success_low"] <= found["success_rate"]
    assert "mean_return" in printed(capsys, "eval", "random", "--episodes", "1", "--max-steps", "5")


def test_a_resumed_run_is_the_same(folder: Path, capsys: pytest.CaptureFixture[str]):
    train = [
        "train",
        "--model",
        "act",
        "--max-steps",
        "4",
        "--save-every",
        "2",
        *TINY,
        "--set",
        "horizon=4",
        "--set",
        "num_executed=2",
    ]
    printed(capsys, *train, "--checkpoint-dir", "a")
    printed(capsys, *train, "--checkpoint-dir", "b", "--resume", "a/step_2.pt")
    first, second = (torch.load(folder / run / "final.pt", weights_only=True)["model_state_dict"] for run in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_chunks_are_learnt_from_the_windows_that_they_need(folder: Path, capsys: pytest.CaptureFixture[str]):
    printed(capsys, "datagen", "--env", "language_reach", "--episodes", "3", "--image-size", "16", "--out", "demo.h5")
    keys = ["--obs-keys", "joint_pos", "ee_pos", "image"]
    printed(capsys, "train", "--model", "vla", "--dataset", "demo.h5", "--max-steps", "2", *TINY, *keys)
    config = torch.load(folder / "checkpoints" / "final.pt", weights_only=True)["config"]
    assert config["model_kwargs"]["state_keys"] == ["ee_pos", "joint_pos"]
    assert config["model_kwargs"]["image_size"] == {"image": [16, 16]}
    arguments = ["eval", "checkpoints/final.pt", "--env", "language_reach", "--episodes", "1", "--max-steps", "3"]
    assert "success_rate" in printed(capsys, *arguments)


def test_what_there_is_to_see(folder: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("av")
    printed(capsys, "datagen", "--episodes", "2", "--out", "reach.h5")
    assert "ee_pos" in printed(capsys, "viz-dataset", "reach.h5", "--out", "data.html")
    printed(capsys, "viz-trajectory", "reach.h5", "--episode", "1", "--out", "episode.html")
    page = (folder / "episode.html").read_text()
    assert all(name in page for name in ("actions", "rewards", "ee_pos", 'class="line second"', "dashed"))
    assert "episodes 0 to 1; got 2" in printed(capsys, "viz-trajectory", "reach.h5", "--episode", "2", status=2)
    assert "nothing.h5" in printed(capsys, "viz-trajectory", "nothing.h5", status=2)
    for nothing in ("models", str(folder)):  # is no data, whatever else it may be
        assert "viz" not in printed(capsys, "viz-dataset", nothing, status=2)
    assert "Did you mean 'reach'?" in printed(capsys, "viz-env", "reech", status=2)
    assert "Known: expert, random." in printed(capsys, "viz-env", "reach", "--policy", "expart", status=2)
    printed(capsys, "viz-env", "reach", "--out", "reach.gif", "--image-size", "32")
    assert (folder / "reach.gif").read_bytes()[:3] == b"GIF"
    assert (folder / "data.html").is_file()


def test_every_episode_is_found_and_its_pictures(folder: Path, capsys: pytest.CaptureFixture[str]):
    printed(capsys, "datagen", "--episodes", "3", "--image-size", "16", "--out", "reach.h5")
    with h5py.File(folder / "reach.h5") as file:
        returns = [float(file[f"episode_{number}/rewards"][:].sum()) for number in range(3)]
    for number, value in enumerate(returns):
        printed(capsys, "viz-trajectory", "reach.h5", "--episode", str(number), "--out", "episode.html")
        page = (folder / "episode.html").read_text()
        assert f"{value:.4g}" in page
        assert "image, at even distances" in page


def test_mistakes_are_one_message(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert "No model is called 'bcc'" in printed(capsys, "train", "--model", "bcc", status=2)
    assert "Did you mean 'hidden_dim'" in printed(capsys, "train", "--set", "hiden_dim=8", status=2)
    assert "nothing.h5" in printed(capsys, "train", "--dataset", "nothing.h5", status=2)
    with pytest.raises(SystemExit):
        main(["train", "--max-steps", "0"])
    assert "max_steps must be a whole number" in capsys.readouterr().err
    assert "There is no checkpoint" in printed(capsys, "eval", "nothing.pt", status=2)
    assert "Did you mean 'expert'?" in printed(capsys, "eval", "expret", status=2)


def test_single_numbers_and_matrices_are_learnt_from_and_plotted(folder: Path, capsys: pytest.CaptureFixture[str]):
    with h5py.File(folder / "arm.h5", "w") as file:
        for episode in range(3):
            group = file.create_group(f"episode_{episode}")
            generator = np.random.default_rng(episode)
            for name, shape in {"joints": (5, 3), "gripper": (5,), "points": (5, 2, 2)}.items():
                group[f"observations/{name}"] = generator.random(shape)
            group["actions"], group["rewards"] = generator.random((5, 2)), np.zeros(5)
    printed(capsys, "train", "--model", "act", "--dataset", "arm.h5", "--max-steps", "2", *TINY)
    kwargs = torch.load(folder / "checkpoints" / "final.pt", weights_only=True)["config"]["model_kwargs"]
    assert (kwargs["state_dim"], kwargs["state_keys"]) == (8, ["gripper", "joints", "points"])
    printed(capsys, "viz-trajectory", "arm.h5")
    assert all(f">{name}<" in (folder / "trajectory.html").read_text() for name in kwargs["state_keys"])


def test_a_policy_that_sees_is_evaluated_while_it_learns(folder: Path, capsys: pytest.CaptureFixture[str]):
    printed(capsys, "datagen", "--env", "language_reach", "--episodes", "2", "--image-size", "16", "--out", "demo.h5")
    train = ["train", "--model", "vla", "--dataset", "demo.h5", "--max-steps", "1", *TINY, "--obs-keys", "image"]
    out = printed(capsys, *train, "--eval-env", "language_reach", "--eval-episodes", "1")
    assert "eval/success_rate" in out


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (("--eval-env", "reech"), "Did you mean 'reach'?"),
        (("--eval-env", "reach", "--eval-episodes", "0"), "at least 1"),
    ],
)
def test_a_mistake_in_the_evaluation_is_told_before_training(
    folder: Path, capsys: pytest.CaptureFixture[str], mistake: tuple[str, ...], message: str
):
    assert message in printed(capsys, "train", "--max-steps", "2", *TINY, *mistake, status=2)
    assert not (folder / "checkpoints").exists()


def test_json_has_null_where_one_episode_says_nothing(folder: Path, capsys: pytest.CaptureFixture[str]):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    out = printed(capsys, "eval", "random", "--episodes", "1", "--max-steps", "2", "--json")
    found = json.loads(out, parse_constant=refuse)
    assert (found["return_low"], found["mean_length"]) == (None, 2.0)
