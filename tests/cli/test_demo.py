"""worldline demo, with the smallest of budgets."""

import json
import shutil

import pytest

from worldline.cli import runs
from worldline.cli.demo import DemoConfig
from worldline.data.buffer import ReplayBuffer

from .tiny import SET, run

TINY = [
    *("--num-episodes", "30", "--total-steps", "4", "--batch-size", "2", "--sequence-length", "8"),
    *("--eval-episodes", "3", "--horizon", "4", "--num-windows", "16", "--log-interval", "2", "--save-interval", "2"),
    *("--device", "cpu", *SET),
]
KEYS = {
    "eval_return_mean", "eval_return_std", "eval_return_interval", "random_return_mean", "env_steps", "train_seconds",
    "open_loop_mse", "copy_mse", "seed", "config", "versions",
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "demo"
    assert run("demo", "--out", out, *TINY) == 0
    return out


def summary(out):
    return json.loads((out / "summary.json").read_text())


def test_summary_has_every_number(demo):
    found = summary(demo)
    assert found.keys() >= KEYS
    assert len(found["eval_returns"]) == len(found["random_returns"]) == 3
    assert found["eval_return_mean"] == pytest.approx(sum(found["eval_returns"]) / 3)
    assert len(found["open_loop_mse"]) == len(found["copy_mse"]) == len(found["open_loop_windows"]) == 4
    assert found["env_steps"] == len(ReplayBuffer.load(demo / "data.npz"))
    assert (found["num_episodes"], found["num_training_episodes"]) == (30, 27)
    assert found["train_seconds"] > 0


def test_the_report_shows_them(demo):
    text = (demo / "report.html").read_text()
    for words in ("learnt from random play alone", "pole angle (rad)", "Learning curves", "total_steps", "gymnasium"):
        assert words in text
    assert text.count("<svg") >= 3 + 3 * 4


def test_the_same_seed_gives_the_same_demo(demo, tmp_path):
    assert run("demo", "--out", tmp_path / "same", *TINY) == 0
    names = ("eval_returns", "random_returns", "open_loop_mse", "copy_mse", "env_steps")
    assert [summary(demo)[name] for name in names] == [summary(tmp_path / "same")[name] for name in names]
    final = "final/model.safetensors"
    assert (demo / final).read_bytes() == (tmp_path / "same" / final).read_bytes()
    assert run("demo", "--out", tmp_path / "other", *TINY, "--seed", 1) == 0
    assert summary(tmp_path / "other")["random_returns"] != summary(demo)["random_returns"]


def test_an_interrupted_demo_goes_on(demo, tmp_path, monkeypatch, capsys):
    from worldline.evaluation import rollout

    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    out = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr(rollout, "evaluate_policy", interrupt)
        assert run("demo", "--out", out, *TINY) == 130
    assert "demo --out" in capsys.readouterr().err
    written = (out / "data.npz").stat().st_mtime_ns
    assert run("demo", "--out", out, "--resume") == 0
    assert (out / "data.npz").stat().st_mtime_ns == written
    before, after = summary(demo), summary(out)
    assert after["eval_returns"] == before["eval_returns"]
    assert after["open_loop_mse"] == before["open_loop_mse"]
    assert after["config"] == before["config"]


def test_a_finished_demo_shows_its_result_again(demo, monkeypatch, capsys):
    written = {name: (demo / name).stat().st_mtime_ns for name in ("demo.yaml", "summary.json", "report.html")}
    monkeypatch.setattr("worldline.cli.demo.run_demo", None)  # nothing is run
    assert run("demo", "--out", demo, "--resume", "--log-interval", 5) == 0
    shown = capsys.readouterr()
    assert f"{summary(demo)['eval_return_mean']:.1f}" in shown.out
    assert "one episode" not in shown.out
    assert f"remove {demo} or choose another --out" in shown.err
    assert "num_episodes 30" in shown.err  # not the default
    assert written == {name: (demo / name).stat().st_mtime_ns for name in written}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {"colour": "red"}}'])
def test_a_damaged_summary_is_written_again(text, demo, tmp_path, capsys):
    shutil.copytree(demo, tmp_path / "demo")
    (tmp_path / "demo" / "summary.json").write_text(text)
    assert run("demo", "--out", tmp_path / "demo", "--resume") == 0
    assert "All 4 steps are done already." in capsys.readouterr().err
    assert summary(tmp_path / "demo")["eval_returns"] == summary(demo)["eval_returns"]


def test_other_evaluation_episodes_are_run(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "demo")
    assert run("demo", "--out", tmp_path / "demo", "--resume", "--eval-episodes", 1) == 0
    assert summary(tmp_path / "demo")["eval_returns"] == summary(demo)["eval_returns"][:1]
    assert summary(tmp_path / "demo")["eval_return_interval"] is None


def test_a_demo_is_only_resumed_as_it_was_begun(demo, capsys):
    assert run("demo", "--out", demo, *TINY) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert run("demo", "--out", demo, "--resume", "--num-episodes", 50) == 2
    assert "num_episodes was 30, not 50" in capsys.readouterr().err


def test_settings_that_are_given_replace_the_usual_ones(tmp_path, capsys):
    arguments = ["demo", "--out", tmp_path / "demo", *TINY, "--set", "entropy_scale=0.5"]
    assert run(*arguments) == 0
    config = runs.read_config(tmp_path / "demo" / "demo.yaml", DemoConfig)
    assert [pair for pair in config.settings if "entropy_scale" in pair] == ["entropy_scale=0.5"]
    assert run("demo", "--out", tmp_path / "demo", "--resume", "--set", "entropy_scale=0.5") == 0
    assert run("demo", "--out", tmp_path / "demo", "--resume", "--set", "entropy_scale=0.6") == 2
    assert "settings was" in capsys.readouterr().err
    assert run(*arguments, "--resume", "--set", "entropy_scale=0.7") == 2
    assert "entropy_scale is given twice" in capsys.readouterr().err


def test_the_settings_are_noted(demo):
    config = runs.read_config(demo / "demo.yaml", DemoConfig)
    assert (config.num_episodes, config.horizon, config.seed) == (30, 4, 0)
    assert runs.read_config(demo / "config.yaml", runs.RunConfig).training.total_steps == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--env", "CartPole-v7"], "Did you mean CartPole-v1"),
        (["--model", "dreamerv5"], "dreamerv3"),
        (["--model", "tdmpc2:1m"], "tdmpc2:1m cannot turn its states into observations"),
        (["--held-out", "2"], "between 0 and 1"),
        (["--total-steps", "0"], "total_steps"),
        (["--horizon", "0"], "horizon must be at least 1; got 0"),
        (["--context", "1"], "context must be at least 2; got 1"),
        (["--eval-episodes", "0"], "eval_episodes must be at least 1"),
        (["--seed", str(1 << 80)], "seed must be below 2**32"),
        (["--device", "tpu"], "tpu"),
        (["--set", "unit=3"], "Did you mean 'units'"),
    ],
)
def test_wrong_input(more, message, tmp_path, capsys):
    assert run("demo", "--out", tmp_path / "demo", "--num-episodes", 4, "--total-steps", 1, *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_windows_that_no_episode_fills_are_told_of_before_training(tmp_path, capsys):
    assert run("demo", "--out", tmp_path / "demo", *TINY, "--horizon", 1000) == 2
    assert "horizon" in capsys.readouterr().err
    assert not (tmp_path / "demo" / "metrics.jsonl").exists()


def test_defaults_collect_enough():
    assert DemoConfig().num_episodes >= 100
    assert (DemoConfig().eval_episodes, DemoConfig().horizon) == (20, 15)
