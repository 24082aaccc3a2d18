"""worldline train --env: what it writes, that it is reproducible, resumed exactly, and refused where it must be."""

import json
import signal
import time

import pytest

from worldline.cli import reporting, runs
from worldline.cli.online import OnlineConfig
from worldline.data.buffer import ReplayBuffer

from .test_train import digest, wait_for
from .tiny import MODEL, run, start

BATCHES = ["--batch-size", "2", "--sequence-length", "8", "--log-interval", "3", "--eval-interval", "9"]
ONLINE = ["--env", "CartPole-v1", "--env-steps", "140", "--seed-steps", "60", "--num-envs", "2"]
ONLINE += ["--replay-ratio", "0.25"]


def train(out, *more, online=ONLINE):
    fixed = [*BATCHES, "--eval-episodes", "2", "--save-interval", "5", "--device", "cpu"]
    return ["train", *MODEL, "--out", str(out), *online, *fixed, *map(str, more)]


@pytest.fixture(scope="module")
def online_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "online"
    assert run(*train(out)) == 0
    return out


def test_the_folder_holds_everything(online_run):
    assert {path.name for path in online_run.iterdir()} >= {"config.yaml", "metrics.jsonl", "replay", "final"}
    config = runs.read_config(online_run / "config.yaml", runs.RunConfig)
    assert (config.data, config.training.total_steps) == (None, 20)
    assert (config.online.env, config.online.env_steps, config.online.num_envs) == ("CartPole-v1", 140, 2)
    rows = runs.read_metrics(online_run)
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 18, 20]
    assert [row["env_steps"] for row in rows] == [60 + 4 * step for step in (3, 6, 9, 12, 15, 18, 20)]
    for row in rows:
        assert row["collect/steps_per_second"] > 0
        assert row["learn/steps_per_second"] > 0
    evaluated = [row for row in rows if "eval/return" in row]
    assert [row["step"] for row in evaluated] == [9, 18, 20]
    for row in evaluated:
        assert row["eval/return_low95"] <= row["eval/return"] <= row["eval/return_high95"]
        assert row["eval/return_std"] >= 0
        assert row["eval/length"] == row["eval/return"]  # CartPole pays 1 a step
    collected = [ReplayBuffer.load(path) for path in sorted((online_run / "replay").iterdir())]
    assert 0 < sum(buffer.num_transitions for buffer in collected) <= 140


def test_the_same_seed_gives_the_same_weights(online_run, tmp_path):
    assert run(*train(tmp_path / "same", "--eval-interval", 7, "--log-interval", 2)) == 0
    assert digest(tmp_path / "same") == digest(online_run)
    assert run(*train(tmp_path / "other", "--seed", 1)) == 0
    assert digest(tmp_path / "other") != digest(online_run)


def test_a_killed_run_ends_with_the_same_bytes(online_run, tmp_path):
    out = tmp_path / "killed"
    arguments = train(out, "--resume")
    for checkpoint in ("step_00000005", "step_00000015"):
        process = start(*arguments)
        wait_for(out / "checkpoints" / checkpoint, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert run("train", MODEL[0], "--out", out, "--resume") == 0  # all else is in config.yaml
    assert digest(out) == digest(online_run)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9, 12, 15, 18, 20]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.3, 0.5, 0.8])
def test_killed_at_any_moment(online_run, tmp_path, seconds):
    out = tmp_path / "killed"
    arguments = train(out, "--resume", "--save-interval", 1)
    for wanted in ("config.yaml", "metrics.jsonl"):
        process = start(*arguments)
        wait_for(out / wanted, process)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    assert run(*arguments) == 0
    assert digest(out) == digest(online_run)


def test_a_finished_run_can_be_made_longer(online_run, tmp_path):
    out = tmp_path / "longer"
    assert run(*train(out)) == 0
    assert run("train", MODEL[0], "--out", out, "--resume", "--env-steps", 180) == 0
    longer = [part if part != "140" else "180" for part in ONLINE]
    assert run(*train(tmp_path / "whole", online=longer)) == 0
    assert digest(out) == digest(tmp_path / "whole")
    assert run("inspect", out) == 0


def test_offline_then_online(data, tmp_path):
    out = tmp_path / "both"
    assert run(*train(out, "--data", data)) == 0
    config = runs.read_config(out / "config.yaml", runs.RunConfig)
    assert config.data.num_episodes == 12
    assert config.online.env == "CartPole-v1"
    assert "12 episodes" in (out / "report.html").read_text()
    again = tmp_path / "again"
    process = start(*train(again, "--data", data))
    wait_for(again / "checkpoints" / "step_00000010", process)
    process.kill()
    process.communicate()
    assert run("train", MODEL[0], "--out", again, "--resume") == 0
    assert digest(again) == digest(out)


def test_settings_of_the_environment_are_kept(tmp_path):
    out = tmp_path / "run"
    settings = ["--env-set", "max_episode_steps=5", "--env-set", "action_repeat=2"]
    assert run(*train(out, *settings)) == 0
    config = runs.read_config(out / "config.yaml", runs.RunConfig)
    assert config.online.settings == {"max_episode_steps": 5, "action_repeat": 2}
    lengths = {len(item) for path in (out / "replay").iterdir() for item in ReplayBuffer.load(path).episodes()}
    assert lengths == {3}
    assert run(*train(out, *settings, "--resume")) == 0
    assert run("train", MODEL[0], "--out", out, "--resume") == 0


def test_images_are_learnt_from(tmp_path):
    pytest.importorskip("pygame")
    images = ["--env-set", "observe=pixels", "--env-set", "image_size=16"]
    assert run(*train(tmp_path / "run", *images, "--set", "depth=2", "--eval-episodes", 0)) == 0
    file = next((tmp_path / "run" / "replay").iterdir())
    assert next(ReplayBuffer.load(file).episodes()).obs.dtype == "uint8"


@pytest.mark.parametrize(
    ("online", "more", "message"),
    [
        ([], [], "nothing to learn from"),
        ([], ["--env-steps", "10"], "nothing to learn from"),
        (["--env", "CartPole-v1"], [], "needs --env-steps above the 1000"),
        (["--env", "CartPole-v1"], ["--env-steps", "500"], "needs --env-steps above the 1000"),
        (ONLINE, ["--total-steps", "7"], "Leave out --total-steps"),
        (ONLINE, ["--num-envs", "0"], "--num-envs must be at least 1"),
        (ONLINE, ["--replay-ratio", "0"], "--replay-ratio must be above 0"),
        (["--env", "CartPole-v7", "--env-steps", "2000"], [], "Did you mean CartPole-v1"),
        (ONLINE, ["--env-set", "colour=red"], "colour"),
    ],
)
def test_wrong_use(online, more, message, tmp_path, capsys):
    assert run(*train(tmp_path / "out", *more, online=online)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_online_settings_without_an_environment_are_refused(data, tmp_path, capsys):
    assert run("train", *MODEL, "--data", data, "--out", tmp_path / "out", "--num-envs", 4) == 2
    assert "without --env" in capsys.readouterr().err


def test_data_of_another_environment_is_refused(data, tmp_path, capsys):
    other = ["--env", "Pendulum-v1", "--env-steps", "2000"]
    assert run(*train(tmp_path / "out", "--data", data, online=other)) == 2
    assert "another environment than --env Pendulum-v1" in capsys.readouterr().err


def test_a_run_is_only_resumed_as_it_was_begun(online_run, capsys):
    assert run(*train(online_run, "--resume", "--env-steps", 70)) == 2
    assert "has done 20 steps already, more than the 2 of --env-steps 70. Ask for" in capsys.readouterr().err
    assert run(*train(online_run, "--resume", "--num-envs", 3)) == 2
    assert "num_envs was 2, not 3" in capsys.readouterr().err


def test_a_fast_dev_run_collects_and_evaluates_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    full = ["--env", "CartPole-v1", "--env-steps", "1000000", "--replay-ratio", "0.5"]
    out = tmp_path / "run"
    arguments = ["train", *MODEL, "--out", str(out), *full, "--batch-size", "2", "--sequence-length", "8"]
    rows = []
    write = reporting.write_training_report
    monkeypatch.setattr(
        reporting, "write_training_report", lambda *args: rows.extend(runs.read_metrics(args[0])) or write(*args)
    )
    assert run(*arguments, "--fast-dev-run") == 0
    assert "Everything works" in capsys.readouterr().out
    assert [row["step"] for row in rows if "eval/return" in row] == [2, 4]
    assert list(tmp_path.iterdir()) == []


def test_overfitting_needs_data(tmp_path, capsys):
    assert run(*train(tmp_path / "run", "--overfit-batches", 2)) == 2
    assert "--overfit-batches needs data" in capsys.readouterr().err


def test_optimiser_steps_follow_from_environment_steps():
    config = OnlineConfig(env="x", env_steps=20_000, seed_steps=1000, replay_ratio=0.25)
    assert config.total_steps == 4750
