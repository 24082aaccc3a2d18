"""worldline train: the folder, reproducibility, resuming, refusals."""

import hashlib
import json
import shutil
import signal
import tempfile
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from worldline.cli import reporting, runs
from worldline.cli.train import build_model
from worldline.data.buffer import ReplayBuffer
from worldline.episode import DataSpec

from .tiny import BUDGET, SETTINGS, run, start, train


def digest(out):
    return hashlib.sha256((out / "final" / "model.safetensors").read_bytes()).hexdigest()


def wait_for(path, process, seconds=60, min_size=0):
    deadline = time.monotonic() + seconds
    while not path.exists() or path.stat().st_size < min_size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_the_folder_holds_everything(finished_run, data):
    names = {path.name for path in finished_run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "final", "report.html"} <= names
    assert [path.name for path in sorted((finished_run / "checkpoints").iterdir())] == [
        "step_00000003",
        "step_00000006",
    ]
    assert {path.name for path in (finished_run / "final").iterdir()} == {"config.json", "model.safetensors"}
    assert [row["step"] for row in runs.read_metrics(finished_run)] == [2, 4, 6]
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert config["model"] == "dreamerv3:size1m"
    assert config["model_settings"] == SETTINGS
    assert config["model_config"]["obs_shape"] == [4]
    assert config["training"]["total_steps"] == 6
    assert config["data"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert config["data"]["num_episodes"] == 12
    assert config["command"].startswith("worldline train dreamerv3:size1m")
    assert {"worldline", "python", "torch", "numpy"} <= config["versions"].keys()


def test_the_same_seed_gives_the_same_weights(finished_run, data, tmp_path):
    assert run(*train(data, tmp_path / "same", "--save-interval", 3)) == 0
    assert digest(tmp_path / "same") == digest(finished_run)
    assert run(*train(data, tmp_path / "other", "--seed", 1)) == 0
    assert digest(tmp_path / "other") != digest(finished_run)


def test_resume_in_an_empty_folder_simply_starts(finished_run, data, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "absent"):
        assert run(*train(data, out, "--save-interval", 3, "--resume")) == 0
        assert digest(out) == digest(finished_run)


def test_options_that_are_not_given_again_are_those_of_the_run(finished_run, data, tmp_path):
    out = tmp_path / "run"
    assert run(*train(data, out, "--save-interval", 3)) == 0
    short = ["train", "dreamerv3:size1m", "--data", data, "--out", out, "--resume"]
    assert run(*short, "--total-steps", 8) == 0
    config = runs.read_config(out / "config.yaml", runs.RunConfig)
    assert (config.training.total_steps, config.training.batch_size) == (8, 2)
    assert config.model_settings == SETTINGS
    assert run(*train(data, tmp_path / "whole", "--save-interval", 3, "--total-steps", 8)) == 0
    assert digest(out) == digest(tmp_path / "whole")


def test_a_finished_run_has_nothing_left_to_train(finished_run, data, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    before = digest(out)
    assert run("train", "dreamerv3:size1m", "--data", data, "--out", out, "--resume") == 0
    error = capsys.readouterr().err
    assert "All 6 steps are done already." in error
    assert "num_steps" not in error
    assert digest(out) == before
    assert run("train", "dreamerv3:size1m", "--data", data, "--out", out, "--resume", "--total-steps", 5) == 2
    assert "has done 6 steps already" in capsys.readouterr().err
    config = runs.read_config(out / "config.yaml", runs.RunConfig)
    assert config.training.total_steps == 6
    assert config.command == runs.read_config(finished_run / "config.yaml", runs.RunConfig).command


def test_threads_are_noted_and_taken_again(data, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    out = tmp_path / "run"
    assert run(*train(data, out, "--num-threads", 1)) == 0
    assert runs.read_config(out / "config.yaml", runs.RunConfig).num_threads == 1
    assert run("train", "dreamerv3:size1m", "--data", data, "--out", out, "--resume") == 0
    assert asked == [1, 1]
    assert run(*train(data, out, "--resume", "--num-threads", 0)) == 0
    assert run("eval", out, "--env", "CartPole-v1", "--episodes", 1, "--num-threads", 2) == 0
    assert run("collect", "CartPole-v1", "--episodes", 1, "--num-threads", 3, "--out", tmp_path / "a.npz") == 0
    assert asked == [1, 1, 2, 3]
    assert run(*train(data, out, "--resume", "--num-threads", -1)) == 2
    assert "--num-threads must be at least 0; got -1" in capsys.readouterr().err


def test_the_final_model_has_the_averaged_weights_and_the_last_ones_are_beside_it(finished_run, data, tmp_path, capsys):
    out = tmp_path / "averaged"
    arguments = train(data, out, "--ema-decay", 0.5, "--resume")
    assert run(*arguments) == 0
    last, final = (load_file(out / name / "model.safetensors") for name in ("final_unaveraged", "final"))
    state = load_file(out / "checkpoints" / "step_00000006" / "optimizer.safetensors")
    averages = {name.removeprefix("average/"): value for name, value in state.items() if name.startswith("average/")}
    assert averages
    for name, value in final.items():
        assert torch.equal(value, averages.get(name, last[name]))
    assert any(not torch.equal(last[name], average) for name, average in averages.items())
    checkpoint = load_file(out / "checkpoints" / "step_00000006" / "model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in checkpoint.items())
    assert (
        digest(finished_run)
        == hashlib.sha256((out / "final_unaveraged" / "model.safetensors").read_bytes()).hexdigest()
    )
    capsys.readouterr()
    assert run("inspect", out) == 0
    assert "final_unaveraged" in capsys.readouterr().out
    before = digest(out)
    assert run(*arguments) == 0  # everything is done already
    assert digest(out) == before


def test_a_killed_run_ends_with_the_same_bytes(finished_run, data, tmp_path):
    out = tmp_path / "killed"
    arguments = train(data, out, "--save-interval", 3, "--resume")
    process = start(*arguments)
    wait_for(out / "checkpoints" / "step_00000003", process)
    process.kill()
    process.communicate()
    assert run(*arguments) == 0
    assert digest(out) == digest(finished_run)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_and_says_how_to_go_on(sent, status, data, tmp_path):
    out = tmp_path / "interrupted"
    process = start(*train(data, out, "--total-steps", 100_000))
    wait_for(out / "metrics.jsonl", process, min_size=1)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"--out {out}" in error.splitlines()[-1]
    assert error.rstrip().endswith("--resume")
    assert "Traceback" not in error
    assert len(list((out / "checkpoints").glob("step_*"))) == 1
    assert not (out / "final").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "unit=3"], "Did you mean 'units'"),
        (["--set", "units=many"], "units must be int"),
        (["--set", "units"], "KEY=VALUE"),
        (["--total-steps", "0"], "total_steps must be a whole number of at least 1"),
        (["--learning-rate", "-1"], "learning_rate must be a finite number above 0"),
        (["--device", "tpu"], "tpu"),
        (["--held-out", "1.5"], "--held-out is a share of the episodes"),
        (["--seed", str(1 << 80)], "seed must be below 2**32"),
    ],
)
def test_wrong_settings(more, message, data, tmp_path, capsys):
    arguments = ["train", "dreamerv3:size1m", "--data", data, "--out", tmp_path / "out", *BUDGET, *more]
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("dreamerv4", "dreamerv3"),
        ("dreamerv3:size2m", "size12m"),
        ("runs/nowhere", "no saved model"),
        ("runs", "runs is neither a saved model nor a run"),
    ],
)
def test_wrong_models(model, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert run("train", model, "--data", data, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_wrong_data_files(content, tmp_path, capsys):
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    assert run("train", "dreamerv3:size1m", "--data", path, "--out", tmp_path / "out") == 2
    assert "data.npz" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_needs_resume(finished_run, data, tmp_path, capsys):
    assert run(*train(data, finished_run)) == 2
    assert "Add --resume" in capsys.readouterr().err
    (tmp_path / "note.txt").touch()
    assert run(*train(data, tmp_path)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run(*train(data, tmp_path, "--resume")) == 2
    assert "no config.yaml" in capsys.readouterr().err
    assert run(*train(data, tmp_path / "note.txt")) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--device", "tpu"], ["--sequence-length", "1"]])
def test_a_run_that_did_nothing_may_be_begun_anew(wrong, data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*train(data, out, *wrong)) == 2
    assert (out / "config.yaml").is_file()
    capsys.readouterr()
    assert run(*train(data, out, "--seed", 3)) == 0
    assert "superseded" not in capsys.readouterr().err
    assert runs.read_config(out / "config.yaml", runs.RunConfig).training.seed == 3


def test_somebody_elses_config_is_not_replaced(data, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("colour: red\n")
    assert run(*train(data, tmp_path)) == 2
    assert "config.yaml" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "colour: red\n"


def test_a_run_is_only_resumed_as_it_was_begun(finished_run, data, tmp_path, capsys):
    assert run(*train(data, finished_run, "--resume", "--learning-rate", "1e-3")) == 2
    assert "learning_rate was 0.0003, not 0.001" in capsys.readouterr().err
    changed = [argument.replace("units=8", "units=9") for argument in train(data, finished_run, "--resume")]
    assert run(*changed) == 2
    assert "units was 8, not 9" in capsys.readouterr().err
    other = tmp_path / "other.npz"
    assert run("collect", "CartPole-v1", "--episodes", 3, "--out", other) == 0
    assert run(*train(other, finished_run, "--resume")) == 2
    assert "the data was" in capsys.readouterr().err
    assert run("train", "bc:small", "--data", data, "--out", finished_run, "--resume") == 2
    error = capsys.readouterr().err
    assert "the model was dreamerv3:size1m, not bc:small" in error
    assert "the model's" not in error  # settings of another family


@pytest.mark.parametrize("text", ["[", "- 1", "model: x\n", "colour: red\n"])
def test_a_damaged_config_is_named(text, data, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    assert run(*train(data, tmp_path, "--resume")) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_a_saved_model_is_not_trained_on_data_of_other_shapes(finished_run, tmp_path, capsys):
    other = ReplayBuffer(100, (3,), 2)
    other.add_episode(np.zeros((5, 3)), np.zeros(5, dtype=int), np.ones(5), terminated=True)
    other.save(tmp_path / "other.npz")
    assert run("train", finished_run, "--data", tmp_path / "other.npz", "--out", tmp_path / "out", *BUDGET) == 2
    assert "other settings than those given: obs_shape is [4], not [3]. Use it with data" in capsys.readouterr().err


def test_a_saved_model_can_be_trained_further(finished_run, data, tmp_path):
    for name in ("final", ""):  # a saved model, and a run
        out = tmp_path / f"further{name}"
        assert run("train", finished_run / name, "--data", data, "--out", out, *BUDGET) == 0
        assert json.loads((out / "final" / "config.json").read_text())["config"]["units"] == 8
        assert digest(out) != digest(finished_run)
    assert digest(tmp_path / "further") == digest(tmp_path / "furtherfinal")


@pytest.mark.parametrize(
    ("action_type", "sizes", "width"), [("discrete", (3,), 3), ("multi_discrete", (2, 3), 5), ("continuous", (), 2)]
)
def test_the_model_is_built_for_the_data(action_type, sizes, width):
    spec = DataSpec(obs_shape={"b": (3,), "a": (2,)}, action_dim=width, action_type=action_type, action_sizes=sizes)
    config = build_model("dreamerv3:size1m", spec, SETTINGS, seed=0).config
    assert (config.obs_shape, config.action_dim, config.action_type) == ({"b": (3,), "a": (2,)}, width, action_type)
    assert config.units == 8


def test_a_run_may_end_early_and_go_on(finished_run, data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*train(data, out, "--save-interval", 3, "--limit-steps", 4)) == 0
    assert "Trained 4 of 6 steps. Go on with the same command and --resume." in capsys.readouterr().out
    assert not (out / "final").exists()
    assert "of 6" in (out / "report.html").read_text()
    assert run("eval", out, "--env", "CartPole-v1", "--episodes", 1) == 0  # its newest checkpoint
    capsys.readouterr()
    assert run(*train(data, out, "--resume", "--save-interval", 3, "--limit-steps", 4)) == 0
    assert "Trained for 6 steps" in capsys.readouterr().out
    assert digest(out) == digest(finished_run)
    assert [row["step"] for row in runs.read_metrics(out)] == [2, 4, 6]


def test_a_fast_dev_run_leaves_nothing(finished_run, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen = []
    write = reporting.write_training_report
    monkeypatch.setattr(
        reporting, "write_training_report", lambda out, config: seen.append(names_in(out)) or write(out, config)
    )
    out = tmp_path / "run"
    assert run(*train(data, out, "--fast-dev-run", "--save-interval", 3)) == 0
    assert "Everything works" in capsys.readouterr().out
    assert [names >= {"config.yaml", "metrics.jsonl", "checkpoints", "final"} for names in seen] == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert run(*train(data, out, "--save-interval", 3)) == 0
    assert digest(out) == digest(finished_run)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_a_fast_dev_run_finds_what_is_wrong_and_leaves_a_run_alone(finished_run, data, tmp_path, capsys):
    assert run(*train(data, tmp_path / "run", "--fast-dev-run", "--sequence-length", 1)) == 2
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()
    out = tmp_path / "resumed"
    shutil.copytree(finished_run, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(*train(data, out, "--fast-dev-run")) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert run(*train(data, out, "--fast-dev-run", "--resume")) == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_profile_is_written(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "bc:small", "--data", data, "--out", out, *BUDGET, "--device", "cpu", "--profile") == 0
    assert [path.name for path in (tmp_path / "run" / "profile").iterdir()] == ["trace_step_00000006.json"]
    assert "Time on the CPU" in capsys.readouterr().err


def test_overfitting_is_a_setting_of_the_run(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*train(data, out, "--overfit-batches", 2, "--limit-steps", 4)) == 0
    assert run("train", "dreamerv3:size1m", "--data", data, "--out", out, "--resume") == 0
    assert runs.read_config(out / "config.yaml", runs.RunConfig).training.overfit_batches == 2
    assert run(*train(data, out, "--resume", "--overfit-batches", 3)) == 2
    assert "overfit_batches was 2, not 3" in capsys.readouterr().err


def test_held_out_episodes_are_not_learnt_from(data, tmp_path, capsys):
    """The losses of a quarter are logged; the same rest by itself gives the same weights."""
    out, rest = tmp_path / "run", tmp_path / "rest.npz"
    assert run(*train(data, out, "--held-out", 0.25, "--eval-interval", 3)) == 0
    assert [row["step"] for row in runs.read_metrics(out) if "eval/loss" in row] == [3, 6]
    assert "Trained on 75% of 12 episodes; the others were held out." in (out / "report.html").read_text()
    ReplayBuffer.load(data).split(0.25, seed=42)[0].save(rest)
    assert run(*train(rest, tmp_path / "alone")) == 0
    assert digest(tmp_path / "alone") == digest(out)
    assert run("train", "dreamerv3:size1m", "--data", data, "--out", out, "--resume") == 0  # with the same share
    assert run(*train(data, out, "--resume", "--held-out", 0.5)) == 2
    assert "held_out was 0.25, not 0.5" in capsys.readouterr().err


def test_nothing_is_held_out_online(tmp_path, capsys):
    assert run(*train(tmp_path / "d.npz", tmp_path / "run", "--held-out", 0.1, "--env", "CartPole-v1")) == 2
    assert "--held-out is for data that is there" in capsys.readouterr().err


def test_a_negative_limit_is_refused(data, tmp_path, capsys):
    assert run(*train(data, tmp_path / "run", "--limit-steps", -1)) == 2
    assert "--limit-steps must be at least 0; got -1" in capsys.readouterr().err
