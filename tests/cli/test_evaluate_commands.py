"""worldline eval of models that obey commands, with and without a shield."""

import json
import re

import numpy as np
import pytest
import torch

from worldline.cli.evaluate_commands import CLIPPED, NO_SHIELD, open_shield
from worldline.cli.measured import obedience_texts
from worldline.create import load_model
from worldline.data.buffer import ReplayBuffer
from worldline.envs.make import make_env
from worldline.evaluation.commands import agreement, commands_in
from worldline.evaluation.rollout import evaluate_policy
from worldline.evaluation.shields import calibration_curve
from worldline.evaluation.statistics import compare_returns
from worldline.models.commanded import CommandedPolicy
from worldline.models.shielded import ShieldedPolicy

from .tiny import run

COMMAND = (30, 400.0)  # CartPole pays 1 a step: so much in so few steps cannot be
EPISODES = ["--env", "CartPole-v1", "--episodes", 3, "--device", "cpu"]
BUDGET = ["--batch-size", 32, "--sequence-length", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "cartpole.npz"
    assert run("collect", "CartPole-v1", "--episodes", 60, "--out", path) == 0
    return path


@pytest.fixture(scope="module")
def agent(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "agent"
    assert run("train", "udrl:small", "--data", recorded, "--out", out, "--total-steps", 4, *BUDGET) == 0
    return out


@pytest.fixture(scope="module")
def shield(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "shield"
    budget = ["--total-steps", 200, "--set", "units=16", "--learning-rate", 1e-2, *BUDGET]
    assert run("train", "shield:quantile", "--data", recorded, "--out", out, *budget) == 0
    return out


def evaluate(capsys, *arguments):
    capsys.readouterr()
    assert run("eval", *arguments, *EPISODES, "--command", *COMMAND, "--json") == 0
    return json.loads(capsys.readouterr().out)


def played(policy, **settings):
    found = evaluate_policy(lambda: make_env("CartPole-v1"), policy, num_episodes=3, seed=1_000_000, **settings)
    return list(found.returns)


def test_commanded_models_sample_unless_told_otherwise(agent, finished_run, capsys):
    policy = CommandedPolicy(load_model(agent / "final"), COMMAND)
    found = evaluate(capsys, agent)
    assert found["deterministic"] is False
    assert found["returns"] == played(policy, deterministic=False)
    likeliest = evaluate(capsys, agent, "--deterministic")
    assert likeliest["deterministic"] is True
    assert likeliest["returns"] == played(policy, deterministic=True) != found["returns"]
    capsys.readouterr()
    assert run("eval", finished_run, *EPISODES, "--json") == 0
    assert json.loads(capsys.readouterr().out)["deterministic"] is True
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, "--deterministic", "--stochastic") == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shielded(agent, shield, recorded, tmp_path_factory):
    """Everything at once: the numbers that were written, and the report."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    more = ["--shield", shield, "--data", recorded, "--out", out, "--num-commands", 2]
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, *more) == 0
    return json.loads((out / "evaluation.json").read_text()), (out / "report.html").read_text()


def calibrated(shield, recorded):
    """Return the shield as `worldline eval` calibrates it, and the other half of the episodes."""
    model = load_model(shield / "final")
    calibration, test = ReplayBuffer.load(recorded).split(0.5)
    model.calibrate(calibration, 0.05)
    return model, calibration, test


def test_no_shield_and_clipping_stand_beside_the_shield(shielded, agent, shield, recorded):
    numbers, _ = shielded
    model, (guard, *_) = load_model(agent / "final"), calibrated(shield, recorded)
    none, clipped = CommandedPolicy(model, COMMAND, clips=False), CommandedPolicy(model, COMMAND)
    assert numbers["returns"] == played(ShieldedPolicy(clipped, guard))
    others = numbers["without_shield"]
    assert list(others) == [NO_SHIELD, CLIPPED]
    assert others[NO_SHIELD]["returns"] == played(none)
    assert others[CLIPPED]["returns"] == played(clipped)
    by_other = {item["against"]: item for item in numbers["paired"]}
    assert list(by_other) == [NO_SHIELD, CLIPPED, "random"]
    expected = compare_returns(others[CLIPPED]["returns"], numbers["returns"])
    assert by_other[CLIPPED]["difference"] == expected.difference
    assert by_other[CLIPPED]["p_value"] == expected.p_value


def test_false_alarms_are_those_of_the_other_half(shielded, shield, recorded):
    numbers, text = shielded
    guard, calibration, test = calibrated(shield, recorded)
    found = numbers["false_alarms"]
    assert [point["alpha"] for point in found] == [0.05, 0.1, 0.2, 0.3]  # 30 episodes do not promise 2%
    expected = calibration_curve(guard, calibration, test, alphas=[point["alpha"] for point in found])
    assert [point["num_flagged"] for point in found] == [point.num_flagged for point in expected]
    assert found[-1]["num_rows"] == 30
    assert "alpha that was asked for" in text


def test_commands_of_the_data_are_told(shielded, agent, recorded):
    numbers, text = shielded
    told = commands_in(ReplayBuffer.load(recorded), 2)
    obedience = numbers["obedience"]
    assert [(item["steps"], item["return"]) for item in obedience["commands"]] == told
    model = load_model(agent / "final")
    done = [played(CommandedPolicy(model, command)) for command in told]
    assert [item["returns"] for item in obedience["commands"]] == done
    assert obedience["return"]["slope"] == pytest.approx(agreement([value for _, value in told], done).slope)
    assert "Desired and obtained return" in text
    assert "Desired and obtained steps" in text
    result = evaluate_policy(
        lambda: make_env("CartPole-v1"), CommandedPolicy(model, told[0]), num_episodes=3, seed=10**6
    )
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)]
    assert [text for row in obedience_texts(told[0], result).values() for text in row] in rows


def test_the_report_has_maps_with_axes(shielded):
    _, text = shielded
    section = text[text.index("Commands in some states") :]
    section = section[: section.index("</section>")]
    for words in ("horizon (steps)", "boundary of the allowed", "projection", "done", "Step 0 of"):
        assert section.count(words) >= 1, words
    paths = re.findall(r'<path class="boundary" d="([^"]*)"', section)
    assert len(paths) == 8  # four charts, wide and narrow
    assert all(path.startswith("M") for path in paths)


def test_the_table_of_the_terminal_has_all_of_them(agent, shield, recorded, tmp_path, capsys):
    guard, *_ = calibrated(shield, recorded)
    guard.save_pretrained(tmp_path / "calibrated")
    capsys.readouterr()
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, "--shield", tmp_path / "calibrated") == 0
    text = capsys.readouterr().out
    first = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert first[:4] == [NO_SHIELD, CLIPPED, "quantile_shield", "random"]
    assert "quantile_shield against others on the same episodes" in text
    assert "effect size" in text


def test_videos_show_both_side_by_side(agent, shield, recorded, tmp_path, capsys):
    av = pytest.importorskip("av")
    out = tmp_path / "out"
    more = ["--shield", shield, "--data", recorded, "--out", out, "--num-commands", 0, "--videos", 2]
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, *more) == 0
    assert "was never calibrated: it is now, at 0.05, by" in " ".join(capsys.readouterr().err.split())
    numbers = json.loads((out / "evaluation.json").read_text())
    assert "obedience" not in numbers
    assert numbers["alpha"] == 0.05
    with av.open(str(out / "videos" / "episode_1000001.mp4")) as video:
        frames = list(video.decode(video=0))
    lengths = [numbers["lengths"][1], numbers["without_shield"][NO_SHIELD]["lengths"][1]]
    assert len(frames) == 1 + max(lengths)
    assert (frames[0].width, frames[0].height) == (2 * 600, 400)
    text = (out / "report.html").read_text()
    captions = re.findall(r"<figcaption>Episode with seed (\d+), ([\w ]+): (\d+) steps", text)
    expected = [
        (str(1_000_000 + number), name, str(lengths[number]))
        for number in range(2)
        for name, lengths in (
            (NO_SHIELD, numbers["without_shield"][NO_SHIELD]["lengths"]),
            ("quantile_shield", numbers["lengths"]),
        )
    ]
    assert captions == expected


def test_alpha_calibrates_anew(agent, shield, recorded, tmp_path, capsys):
    guard, *_ = calibrated(shield, recorded)
    guard.save_pretrained(tmp_path / "calibrated")
    given = ["--shield", tmp_path / "calibrated", "--data", recorded, "--out", tmp_path / "out", "--num-commands", 0]
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, *given, "--alpha", 0.5) == 0
    assert "is calibrated anew, at 0.5, by" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["alpha"] == 0.5
    model, data, env = load_model(agent / "final"), ReplayBuffer.load(recorded), make_env("CartPole-v1")
    opened = {"policy": CommandedPolicy(model, COMMAND), "device": "cpu", "data": data}
    anew, alpha = open_shield(tmp_path / "calibrated", env, **opened, alpha=0.5)
    saved, none = open_shield(tmp_path / "calibrated", env, **opened, alpha=None)
    assert (alpha, none) == (0.5, None)
    assert torch.equal(saved.thresholds, guard.thresholds)
    guard.calibrate(data.split(0.5)[0], 0.5)
    assert torch.equal(anew.thresholds, guard.thresholds)
    assert anew.thresholds < saved.thresholds
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, *given, "--alpha", 1.5) == 2
    assert "alpha" in capsys.readouterr().err


def test_mistakes(agent, shield, finished_run, recorded, tmp_path, capsys):
    for arguments, message in [
        ([agent, "--command", *COMMAND, "--shield", shield], "was never calibrated. Add --data"),
        ([agent, "--command", *COMMAND, "--shield", agent], "is no shield"),
        ([finished_run, "--shield", shield], "is for models that obey commands"),
        ([agent, "--command", *COMMAND, "--shield", shield, "--alpha", 0.2], "--alpha calibrates the shield: add"),
        ([agent, "--command", *COMMAND, "--num-commands", -1], "--num-commands must be at least 0"),
    ]:
        capsys.readouterr()
        assert run("eval", *arguments, *EPISODES) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    ReplayBuffer.load(recorded).split(0.1)[1].save(tmp_path / "few.npz")
    given = ["--shield", shield, "--data", tmp_path / "few.npz", "--out", tmp_path / "out"]
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, *given) == 2
    assert "Half of the 6 episodes of --data is to calibrate the shield" in capsys.readouterr().err.replace("\n", " ")
    other = ReplayBuffer(100, (4,), 1, action_sizes=())
    other.add_episode(np.zeros((5, 4)), np.zeros((5, 1)), np.ones(5), terminated=True)
    other.save(tmp_path / "other.npz")
    given = ["--data", tmp_path / "other.npz", "--out", tmp_path / "out"]
    assert run("eval", agent, *EPISODES, "--command", *COMMAND, *given) == 2
    assert "of another environment" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_map_without_projection_says_that_the_command_is_allowed(agent, shield, recorded):
    from worldline.cli.evaluate_commands import command_map_at

    guard, _, test = calibrated(shield, recorded)
    episode = next(
        episode
        for episode in test.episodes()
        if not guard.is_ood(torch.from_numpy(episode.obs[:1]), torch.from_numpy(episode.commands[:1])).item()
    )
    policy = CommandedPolicy(load_model(agent / "final"), tuple(episode.commands[0].tolist()))
    names = [series.name for series in command_map_at(guard, policy, episode, 0).series]
    assert names == ["told, and allowed", "done"]
    # Three steps later, three steps and what they paid are gone; CartPole pays 1 a step.
    later = command_map_at(guard, CommandedPolicy(policy.model, (60.0, 40.0)), episode, 3)
    told, *_, done = later.series
    assert (told.x, told.y) == ([57.0], [37.0])
    assert (done.x, done.y) == ([len(episode) - 3.0], [len(episode) - 3.0])
    assert later.title.startswith(f"Step 3 of {len(episode)}")
