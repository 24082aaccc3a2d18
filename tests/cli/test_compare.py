"""worldline compare, with the smallest of budgets."""

import json
import re
import shutil

import pytest

from worldline.batch import Batch
from worldline.cli import runs
from worldline.cli.compare import RECIPES, CompareConfig, training_of
from worldline.data.buffer import ReplayBuffer
from worldline.errors import ConfigError, NonFiniteError
from worldline.evaluation.statistics import compare_returns
from worldline.models.bc import BC
from worldline.training.config import TrainingConfig

from .tiny import SETTINGS, run

MODELS = ("dreamerv3:size1m", "tdmpc2:1m", "bc:small")
PLANS = {"plan_samples": 8, "plan_elites": 4, "plan_policy_samples": 2, "plan_iterations": 1}
TINY = {
    **{f"dreamerv3.{key}": value for key, value in {**SETTINGS, "batch_size": 2, "sequence_length": 8}.items()},
    **{f"tdmpc2.{key}": value for key, value in {"latent": 16, "encoder_units": 16, "units": 16, **PLANS}.items()},
    "tdmpc2.batch_size": 4,
    "bc:small.units": 8,
}
SET = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
BUDGET = ["--total-steps", "4", "--episodes", "3", "--device", "cpu"]


def compare(data, out, *more, settings=SET):
    return run("compare", "--data", data, "--env", "CartPole-v1", "--out", out, *BUDGET, *settings, *more)


def only_bc(data, out, *more):
    return compare(data, out, "--models", "bc:small", *more, settings=[])


def summary(out):
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "compare"
    assert compare(data, out) == 0
    return out


def test_the_summary_has_every_model_and_the_yardsticks(finished, data):
    found = summary(finished)
    assert tuple(found["models"]) == MODELS
    for result in (*found["models"].values(), found["random"]):
        assert len(result["returns"]) == len(result["lengths"]) == 3
        assert result["return_mean"] == pytest.approx(sum(result["returns"]) / 3)
        low, high = result["return_interval95"]
        assert low <= result["return_mean"] <= high
    assert found["failures"] == {}
    buffer = ReplayBuffer.load(data)
    assert found["data"]["num_episodes"] == buffer.num_episodes
    # CartPole pays 1 a step
    assert found["data"]["return_mean"] == pytest.approx(buffer.num_transitions / buffer.num_episodes)


def test_every_model_is_a_run_trained_by_its_recipe(finished, capsys):
    for name in MODELS:
        folder = finished / name.replace(":", "-")
        saved = runs.read_config(folder / runs.CONFIG, runs.RunConfig)
        assert (saved.model, saved.training.total_steps, saved.training.seed) == (name, 4, 0)
        assert saved.training.learning_rate == RECIPES[name.partition(":")[0]]["learning_rate"]
        assert (folder / runs.REPORT).is_file()
    saved = runs.read_config(finished / "tdmpc2-1m" / runs.CONFIG, runs.RunConfig)
    assert (saved.training.batch_size, saved.training.sequence_length) == (4, 4)
    assert saved.model_settings["units"] == 16
    # On the same episodes as the comparison's
    assert run("eval", finished / "bc-small", "--env", "CartPole-v1", "--episodes", 3, "--json") == 0
    assert json.loads(capsys.readouterr().out)["returns"] == summary(finished)["models"]["bc:small"]["returns"]


def test_the_best_is_held_against_each_other_one_on_the_same_episodes(finished, capsys):
    found = summary(finished)
    played = {
        **{name: result["returns"] for name, result in found["models"].items()},
        "random": found["random"]["returns"],
    }
    best = max(played, key=lambda name: sum(played[name]))
    assert [(item["policy"], item["against"]) for item in found["paired"]] == [
        (best, other) for other in played if other != best
    ]
    for item in found["paired"]:
        expected = compare_returns(played[item["against"]], played[best])
        assert (item["difference"], item["p_value"]) == (expected.difference, expected.p_value)
        assert item["p_value"] <= item["p_value_holm"] <= 3 * item["p_value"]
    capsys.readouterr()
    assert run("compare", "--out", finished, "--resume") == 0
    assert f"{best} against others on the same episodes" in capsys.readouterr().out
    text = (finished / "report.html").read_text()
    assert f"{best} against the others" in text
    assert re.findall(r'<div class="tile main">\s*<[^>]*>Return, ([^<]*)<', text) == [best]


def test_the_report_shows_them(finished):
    text = (finished / "report.html").read_text()
    for name in MODELS:
        assert f"Learning curves: {name}" in text
        assert f"Training of {name}" in text
    assert all(words in text for words in ("95% interval", "the data", "random", "Return of each episode, sorted"))
    assert all(f'class="line {color}' in text for color in ("accent", "second", "third", "muted dashed"))


def test_what_is_finished_is_not_done_again(finished, data, monkeypatch, capsys):
    before = summary(finished)
    weights = {name: (finished / name.replace(":", "-") / "final" / "model.safetensors").stat() for name in MODELS}
    monkeypatch.setattr("worldline.cli.train.TrainingRun.train", None)
    assert run("compare", "--out", finished, "--resume") == 0
    shown = capsys.readouterr()
    assert all(f"{name} is trained and evaluated already" in shown.err for name in MODELS)
    assert "the data" in shown.out
    assert summary(finished) == before
    assert all((finished / n.replace(":", "-") / "final" / "model.safetensors").stat() == w for n, w in weights.items())


def test_an_interrupted_comparison_goes_on(finished, data, tmp_path, monkeypatch, capsys):
    from worldline.training.trainer import Trainer

    out, train = tmp_path / "compare", Trainer.train

    def interrupt(trainer, *arguments, **settings):
        if isinstance(trainer.model, BC):
            raise KeyboardInterrupt
        return train(trainer, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", interrupt)
        assert compare(data, out) == 130
    assert f"compare --data {data}" in capsys.readouterr().err
    assert not (out / "summary.json").exists()
    assert run("compare", "--out", out, "--resume") == 0
    shown = capsys.readouterr().err
    assert "tdmpc2:1m is trained and evaluated already" in shown
    assert "bc:small is trained" not in shown
    for name in MODELS:
        assert summary(out)["models"][name]["returns"] == summary(finished)["models"][name]["returns"]


def test_more_episodes_are_evaluated_without_training_again(finished, tmp_path, capsys):
    out = tmp_path / "compare"
    shutil.copytree(finished, out)
    assert run("compare", "--out", out, "--resume", "--models", "bc:small", "--episodes", 1) == 0
    assert "All 4 steps are done already" in capsys.readouterr().err
    found = summary(out)
    assert list(found["models"]) == ["bc:small"]
    assert found["models"]["bc:small"]["returns"] == summary(finished)["models"]["bc:small"]["returns"][:1]
    assert found["models"]["bc:small"]["return_interval95"] is None


def test_sampled_actions_are_evaluated_anew(finished, tmp_path):
    out = tmp_path / "compare"
    shutil.copytree(finished, out)
    assert run("compare", "--out", out, "--resume", "--models", "bc:small", "--stochastic") == 0
    assert "samples its actions" in (out / "report.html").read_text()
    likeliest = summary(finished)["models"]["bc:small"]["returns"]
    assert summary(out)["models"]["bc:small"]["returns"] != likeliest
    for again in ([], ["--stochastic"]):  # both are what was said before
        assert run("compare", "--out", out, "--resume", *again) == 0
        assert "samples its actions" in (out / "report.html").read_text()
    assert run("compare", "--out", out, "--resume", "--deterministic") == 0
    assert "takes its likeliest actions" in (out / "report.html").read_text()
    assert summary(out)["models"]["bc:small"]["returns"] == likeliest


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_result_is_measured_again(text, finished, tmp_path):
    out = tmp_path / "compare"
    shutil.copytree(finished, out)
    (out / "bc-small" / "result.json").write_text(text)
    assert run("compare", "--out", out, "--resume", "--models", "bc:small") == 0
    expected = summary(finished)["models"]["bc:small"]
    assert summary(out)["models"]["bc:small"]["returns"] == expected["returns"]
    # It has trained already: the time is that of its checkpoint, and what it took to see that nothing is left.
    state = json.loads((out / "bc-small" / "checkpoints" / "step_00000004" / "state.json").read_text())
    trained = state["callbacks"]["TrainingClock"]["seconds"]
    assert trained <= summary(out)["models"]["bc:small"]["train_seconds"] < trained + 60


def test_a_failure_leaves_the_others_their_results(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "compare"

    def fail(model: BC, batch: Batch):
        raise NonFiniteError("The loss became NaN <here>. Lower the learning rate.")

    models = ("--models", "bc:base", "bc:small", "--set", "bc:base.units=oops", "--set", "bc:small.units=8")
    assert compare(data, out, *models, settings=[]) == 2
    shown = capsys.readouterr()
    assert "bc:base failed: " in shown.err
    assert "1 of 2 models failed: bc:base." in shown.err
    assert "failed" in shown.out
    assert list(summary(out)["models"]) == ["bc:small"]
    assert "units" in summary(out)["failures"]["bc:base"]
    assert "bc:small learnt from the same" in (out / "report.html").read_text()
    assert "Failed: bc:base." in (out / "report.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(BC, "compute_loss", fail)
        assert run("compare", "--out", out, "--resume", "--set", "bc:base.units=8") == 2
    assert list(summary(out)["models"]) == ["bc:small"]
    assert "NaN &lt;here&gt;" in (out / "report.html").read_text()
    assert run("compare", "--out", out, "--resume") == 0
    assert list(summary(out)["models"]) == ["bc:base", "bc:small"]
    assert summary(out)["models"]["bc:base"]["settings"] == {"units": 8}


def test_a_comparison_is_only_resumed_as_it_was_begun(finished, data, capsys):
    assert compare(data, finished) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert run("compare", "--out", finished, "--resume", "--total-steps", 8) == 2
    assert "total_steps was 4, not 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "bc:smal"], "bc has no size 'smal'. Did you mean 'small'?"),
        (["--models", "bc:small", "bc"], "each once"),
        (["--models", "bc:small", "udrl"], "udrl chooses no actions by itself"),
        (["--models", "shield:quantile"], "quantile_shield chooses no actions by itself"),
        (["--set", "units=8"], "--set takes FAMILY.KEY=VALUE"),
        (["--set", "dreamer.units=8"], "Did you mean 'dreamerv3'?"),
        (["--set", "bc.batch_size=0"], "batch_size must be"),
        (["--episodes", "0"], "--episodes must be at least 1"),
        (["--deterministic", "--stochastic"], "exclude each other"),
        (["--env", "Pendulum-v1"], "of another environment than --env Pendulum-v1"),
        (["--env", "CartPole-v9"], "no environment 'CartPole-v9'"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(arguments, message, data, tmp_path, capsys):
    assert compare(data, tmp_path / "out", *arguments, settings=[]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_data_and_environment_are_needed(data, tmp_path, capsys):
    for given in (["--data", data], ["--env", "CartPole-v1"]):
        assert run("compare", *given, "--out", tmp_path / "out") == 2
        assert "Give the data file with --data FILE" in capsys.readouterr().err


def test_the_recipes_are_told_and_may_be_overruled(capsys):
    with pytest.raises(SystemExit):
        run("compare", "--help")
    shown = capsys.readouterr().out
    for family, recipe in RECIPES.items():
        assert f"{family}: {recipe['batch_size']} x {recipe['sequence_length']} rows" in shown
    config = CompareConfig(total_steps=500, seed=3)
    training = training_of(config, "bc:small", {"learning_rate": 1e-2})
    assert (training.batch_size, training.learning_rate, training.log_interval, training.seed) == (256, 1e-2, 5, 3)
    assert training_of(config, "other:1m").batch_size == TrainingConfig().batch_size
    with pytest.raises(ConfigError, match="learning_rate must be"):
        training_of(config, "bc:small", {"learning_rate": -1.0})
