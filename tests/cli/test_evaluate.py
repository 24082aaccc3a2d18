"""worldline eval."""

import json
import shutil

import numpy as np
import pytest

from worldline.data.buffer import ReplayBuffer

from .tiny import run


def evaluate(capsys, *arguments):
    assert run("eval", *arguments, "--env", "CartPole-v1", "--episodes", 3, "--json", "--device", "cpu") == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_every_number(finished_run, capsys):
    result = evaluate(capsys, finished_run)
    assert len(result["returns"]) == len(result["lengths"]) == result["num_episodes"] == 3
    assert result["return_mean"] == pytest.approx(sum(result["returns"]) / 3)
    low, high = result["return_interval95"]
    assert low <= result["return_mean"] <= high
    assert result["random_return_mean"] > 5


def test_run_and_saved_model_and_repetition_agree(finished_run, capsys):
    results = [evaluate(capsys, path)["returns"] for path in (finished_run, finished_run / "final", finished_run)]
    assert results[0] == results[1] == results[2]


def test_a_run_without_a_final_model_is_evaluated_at_its_newest_checkpoint(finished_run, tmp_path, capsys):
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("final"))
    assert evaluate(capsys, tmp_path / "run")["returns"] == evaluate(capsys, finished_run)["returns"]


def test_the_report_of_a_single_episode_has_no_intervals(tmp_path):
    assert run("eval", "random", "--env", "CartPole-v1", "--episodes", 1, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "one episode has no interval" in text
    assert "nan" not in text


def test_table(finished_run, capsys):
    assert run("eval", finished_run, "--env", "CartPole-v1", "--episodes", 2, "--stochastic", "--device", "cpu") == 0
    text = capsys.readouterr().out
    assert "mean return" in text
    assert "random" in text


def test_random_alone_and_one_episode(capsys):
    assert run("eval", "random", "--env", "CartPole-v1", "--episodes", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["return_interval95"] is None
    assert run("eval", "random", "--env", "CartPole-v1", "--episodes", 1) == 0


def test_wrong_input(finished_run, tmp_path, capsys):
    assert run("eval", tmp_path, "--env", "CartPole-v1") == 2
    assert "neither a saved model nor a run" in capsys.readouterr().err
    assert run("eval", finished_run / "report.html", "--env", "CartPole-v1") == 2
    assert "it is a file" in capsys.readouterr().err
    assert run("eval", finished_run, "--env", "Acrobot-v1") == 2
    assert "obs_shape" in capsys.readouterr().err
    assert run("eval", finished_run, "--env", "CartPole-v1", "--seed", 1 << 40) == 2
    assert "--seed must be between" in capsys.readouterr().err
    assert run("eval", finished_run, "--env", "CartPole-v1", "--device", "tpu") == 2
    assert "tpu" in capsys.readouterr().err


def test_a_damaged_model_is_named(finished_run, tmp_path, capsys):
    shutil.copytree(finished_run / "final", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run("eval", tmp_path / "model", "--env", "CartPole-v1") == 2
    assert "damaged" in capsys.readouterr().err


def test_settings_reach_the_environment(tmp_path, capsys):
    settings = ["--env-set", "max_episode_steps=4", "--env-set", "action_repeat=2"]
    assert run("eval", "random", "--env", "Pendulum-v1", *settings, "--episodes", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == [2, 2]
    out = tmp_path / "a.npz"
    assert run("collect", "Pendulum-v1", *settings, "--episodes", 3, "--out", out) == 0
    assert ReplayBuffer.load(out).num_transitions == 6


@pytest.fixture(scope="module")
def obedient_run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "obedient"
    budget = ["--total-steps", 4, "--batch-size", 8, "--sequence-length", 1, "--device", "cpu"]
    assert run("train", "udrl:small", "--data", data, "--out", out, *budget) == 0
    return out


def test_a_model_that_obeys(obedient_run, capsys):
    capsys.readouterr()
    result = evaluate(capsys, obedient_run, "--command", 30, 25.5)
    assert result["command"] == {"steps": 30, "return": 25.5}
    assert len(result["returns"]) == 3
    assert run("eval", obedient_run, "--env", "CartPole-v1", "--command", 30, 25.5, "--episodes", 2) == 0
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines if line[:1] in (["steps"], ["return"])] == [
        ["steps", "30.0"],
        ["return", "25.5"],
    ]


def test_a_model_that_obeys_needs_a_command(obedient_run, capsys):
    assert run("eval", obedient_run, "--env", "CartPole-v1") == 2
    assert "Add --command STEPS RETURN, such as --command 200 250" in capsys.readouterr().err
    assert run("eval", obedient_run, "--env", "CartPole-v1", "--command", 0, 10) == 2
    assert "with at least 1 step" in capsys.readouterr().err


def test_success_is_shown_where_the_environment_speaks_of_it(capsys):
    settings = ["--env", "robot:reach", "--env-set", "max_episode_steps=3", "--episodes", 2]
    assert run("eval", "random", *settings, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["success_rate"], result["successes"], result["random_success_rate"]) == (0.0, [False, False], 0.0)
    assert result["success_interval95"] == [0.0, pytest.approx(3.841459 / 5.841459)]
    assert result["length_mean"] == 3
    assert run("eval", "random", *settings) == 0
    assert "0.0% to 65.8%" in capsys.readouterr().out
    assert run("eval", "random", "--env", "CartPole-v1", "--episodes", 2) == 0
    assert "success" not in capsys.readouterr().out
    assert run("eval", "expert", "--env", "robot:reach", "--episodes", 2) == 0
    assert "100.0%" in capsys.readouterr().out


def test_a_folder_with_numbers_report_and_videos(tmp_path, capsys):
    pytest.importorskip("av")
    pytest.importorskip("OpenGL")
    data, out = tmp_path / "reach.npz", tmp_path / "evaluation"
    assert run("collect", "robot:reach", "--policy", "expert", "--episodes", 3, "--out", data) == 0
    arguments = ["--env", "robot:reach", "--episodes", 3, "--seed", 0, "--out", out, "--videos", 2, "--data", data]
    assert run("eval", "expert", *arguments) == 0
    numbers = json.loads((out / "evaluation.json").read_text())
    assert numbers["successes"] == [True] * 3
    assert numbers["action_errors"] == pytest.approx([0.0] * 4, abs=1e-6)  # the same policy in the same states
    assert sorted(path.name for path in (out / "videos").iterdir()) == ["episode_0.mp4", "episode_1.mp4"]
    text = (out / "report.html").read_text()
    assert text.count("<img") == 2
    assert "Episode with seed 1" in text
    assert "100.0%" in text
    capsys.readouterr()
    assert run("eval", "expert", "--env", "robot:reach", "--videos", 1) == 2
    assert "add --out" in capsys.readouterr().err
    assert run("eval", "expert", "--env", "robot:reach", "--episodes", 1, "--videos", 2, "--out", out) == 2
    assert "--videos must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", 0], "--episodes must be at least 1; got 0."),
        (["--out", "there"], "there is a file. Choose a folder with --out."),
        (["--out", "new", "--data", "pendulum.npz"], "of another environment than --env CartPole-v1"),
        (["--env-set", "frames"], "--env-set takes KEY=VALUE, such as --env-set action_repeat=2; got 'frames'."),
    ],
)
def test_mistakes_are_told_before_any_episode(arguments, message, finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("precious")
    other = ReplayBuffer(100, (3,), 1, action_sizes=())
    other.add_episode(np.zeros((5, 3)), np.zeros((5, 1)), np.ones(5), terminated=True)
    other.save("pendulum.npz")
    capsys.readouterr()
    assert run("eval", finished_run, "--env", "CartPole-v1", "--device", "cpu", "--episodes", 2, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Evaluating" not in error
    assert (tmp_path / "there").read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_an_expert_that_there_is_not(capsys):
    assert run("eval", "expert", "--env", "Acrobot-v1") == 2
    assert "Acrobot-v1 has no scripted policy 'expert'. Those with some: CartPole-v1" in capsys.readouterr().err
