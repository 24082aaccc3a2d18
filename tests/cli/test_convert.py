"""worldline convert, and training and inspecting what it writes."""

import re

import h5py
import numpy as np
import pytest

from worldline.data import loading
from worldline.data.buffer import ReplayBuffer
from worldline.episode import Episode

from .tiny import run, train

FORMATS = (("a.h5", None), ("a.zarr", None), ("a", None), ("a.hdf5", "robomimic"), ("b.hdf5", "d4rl"))


def test_there_and_back_are_the_same_bytes(data, tmp_path, capsys):
    before = data
    for name, known in FORMATS:
        after = tmp_path / name
        assert run("convert", before, after, *(["--format", known] if known else [])) == 0
        before = after
    assert run("convert", before, tmp_path / "back.npz") == 0
    assert "Wrote 12 episodes" in capsys.readouterr().out
    assert (tmp_path / "back.npz").read_bytes() == data.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["back.npz", *(name for name, _ in FORMATS)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{data}", "{data}"), "there already"),
        (("{data}", "x.csv"), "suffix"),
        (("{data}", "x.h5", "--format", "minari"), "not written"),
        (("{data}", "no/x.h5"), "no folder"),
        (("missing.h5", "x.h5"), "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said(data, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run("convert", *(argument.format(data=data) for argument in arguments)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_format_trains_the_same_weights(data, tmp_path, capsys):
    """Also data that is imported because it is too large for memory, and mapped on resume from where it is."""
    assert run("convert", data, tmp_path / "a.h5") == 0
    assert run("convert", data, tmp_path / "columns") == 0
    weights = []
    for name, source in (("npz", data), ("h5", tmp_path / "a.h5"), ("columns", tmp_path / "columns")):
        assert run(*train(source, tmp_path / f"run_{name}")) == 0
        weights.append((tmp_path / f"run_{name}" / "final" / "model.safetensors").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "IN_MEMORY_BYTES", 100)
        out = tmp_path / "imported"
        capsys.readouterr()
        assert run(*train(tmp_path / "a.h5", out, "--limit-steps", 3)) == 0
        assert "mapped from the disk" in capsys.readouterr().err
        imported = (out / "data" / "manifest.json").stat().st_mtime_ns
        assert run(*train(tmp_path / "a.h5", out, "--resume")) == 0
        assert (out / "data" / "manifest.json").stat().st_mtime_ns == imported
        weights.append((out / "final" / "model.safetensors").read_bytes())
    assert len(set(weights)) == 1


def test_a_run_is_resumed_with_the_same_data_alone(data, tmp_path, capsys):
    assert run("convert", data, tmp_path / "columns") == 0
    assert run(*train(tmp_path / "columns", tmp_path / "run", "--limit-steps", 3)) == 0
    manifest = tmp_path / "columns" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert run(*train(tmp_path / "columns", tmp_path / "run", "--resume")) == 2
    assert "the data was" in capsys.readouterr().err


def test_inspect_says_what_is_wrong_with_data(tmp_path, capsys):
    path = tmp_path / "reach.h5"
    with h5py.File(path, "w") as file:
        for number in range(3):
            group = file.create_group(f"episode_{number}")
            group["observations/joint_pos"] = np.full((4, 7), number, np.float64)
            group["actions"], group["rewards"] = np.zeros((4, 4)), np.ones(4)
            group.attrs["language"] = "<reach>"
        file["episode_1/observations/joint_pos"][2] = np.nan
    assert run("inspect", path, "--report", tmp_path / "report.html") == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "│ hdf5 │",
        "obs.joint_pos (7,)",
        "[6] 0",
        "7 numbers are NaN",
        "1 different, 3 episodes",
        "3 truncated",
    ):
        assert words in text
    report = (tmp_path / "report.html").read_text()
    for words in ("obs.joint_pos", "&lt;reach&gt;", "<svg"):
        assert words in report
    assert "<reach>" not in report


def test_the_report_shows_pictures(tmp_path, capsys):
    images = {"eye": np.full((4, 16, 16, 3), 90, np.uint8), "grey": np.full((4, 1, 8, 8), 9, np.uint8)}
    obs = images | {"map": np.zeros((4, 8, 8, 5), np.uint8), "state": np.zeros((4, 2), np.float32)}
    episode = Episode(obs=obs, actions=np.zeros((4, 1)), rewards=np.zeros(4), terminated=True)
    ReplayBuffer.from_episodes([episode], action_dim=1).save(tmp_path / "a.npz")
    assert run("inspect", tmp_path / "a.npz", "--report", tmp_path / "report.html") == 0
    report = (tmp_path / "report.html").read_text()
    assert re.findall(r"<figcaption>(\w+), at even distances", report) == ["eye", "grey"]
    assert report.count("data:image/png") == 2
    assert "not finite" not in report + capsys.readouterr().out  # none is not


def test_inspect_shows_folders_of_data(data, tmp_path, capsys):
    for name in ("columns", "a.zarr"):
        assert run("convert", data, tmp_path / name) == 0
        capsys.readouterr()
        assert run("inspect", tmp_path / name) == 0
        assert "12 terminated, 0 truncated" in " ".join(capsys.readouterr().out.split())


def degrees(tmp_path, **columns):
    """Write an episode whose two actions are joint angles in degrees, and return its file."""
    actions = np.array([[-90, 10], [0, 20], [90, 30]])
    episode = Episode(
        obs=np.zeros((3, 2)), actions=actions, rewards=np.zeros(3), terminated=True, meta={"robot": "arm"}
    )
    ReplayBuffer.from_episodes([episode], action_dim=2, action_sizes=()).save(tmp_path / "a.npz")
    return tmp_path / "a.npz"


@pytest.mark.parametrize(
    ("words", "expected", "bounds"),
    [
        (("data",), [[-1, -1], [0, 0], [1, 1]], ([-90, 10], [90, 30])),
        (("-90", "90"), [[-1, 1 / 9], [0, 2 / 9], [1, 3 / 9]], (-90, 90)),
        (("-180", "180", "0", "40"), [[-0.5, -0.5], [0, 0], [0.5, 0.5]], ([-180, 0], [180, 40])),
    ],
)
def test_actions_are_taken_to_where_policies_act(tmp_path, words, expected, bounds):
    assert run("convert", degrees(tmp_path), tmp_path / "b.h5", "--scale-actions", *words) == 0
    (episode,) = ReplayBuffer.load(tmp_path / "b.h5").episodes()
    np.testing.assert_allclose(episode.actions, expected, rtol=1e-6)
    low, high = (np.array(episode.meta[name]) for name in ("action_low", "action_high"))
    assert (low.tolist(), high.tolist()) == bounds
    assert episode.meta["robot"] == "arm"
    carried_out = low + (episode.actions + 1) / 2 * (high - low)
    np.testing.assert_allclose(carried_out, [[-90, 10], [0, 20], [90, 30]], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "got nothing"),
        (("1",), "LOW HIGH"),
        (("1", "2", "3"), "LOW HIGH"),
        (("1", "x"), "LOW HIGH"),
        (("2", "1"), "below its high"),
        (("0", "inf"), "finite"),
        (("0", "1", "0", "1", "0", "1"), "3 bounds"),
        (("0", "1e-44"), "scaled: actions has"),
        (("Pendulum-v1",), "1 bounds, but"),
        (("CartPole-v1",), "choices"),
        (("dta",), "or 'data', or the id of an environment. There is no environment 'dta'"),
    ],
)
def test_bounds_that_cannot_be(tmp_path, capsys, words, message):
    assert run("convert", degrees(tmp_path), tmp_path / "b.h5", "--scale-actions", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "b.h5").exists()


def test_the_range_of_an_environment(tmp_path):
    episode = Episode(obs=np.zeros((2, 3)), actions=[[-2.0], [1.0]], rewards=np.zeros(2), terminated=True)
    ReplayBuffer.from_episodes([episode], action_dim=1, action_sizes=()).save(tmp_path / "a.npz")
    assert run("convert", tmp_path / "a.npz", tmp_path / "b.npz", "--scale-actions", "Pendulum-v1") == 0
    (found,) = ReplayBuffer.load(tmp_path / "b.npz").episodes()
    assert found.actions.tolist() == [[-1], [0.5]]


def test_actions_beyond_the_bounds_are_counted(tmp_path, capsys):
    assert run("convert", degrees(tmp_path), tmp_path / "b.npz", "--scale-actions", "-89", "89") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert re.search("warning: 2 of 6 actions of .* are beyond the bounds", told)


def test_what_is_scaled_is_not_scaled_again(tmp_path, capsys):
    assert run("convert", degrees(tmp_path), tmp_path / "b.npz", "--scale-actions", "data") == 0
    assert run("convert", tmp_path / "b.npz", tmp_path / "c.npz", "--scale-actions", "data") == 2
    assert "were scaled before" in capsys.readouterr().err


@pytest.mark.parametrize(("num_actions", "is_kept"), [(14, True), (60, False)])
def test_many_episodes_of_many_actions(tmp_path, num_actions, is_kept):
    """The bounds are in the meta of every episode, of which a file takes no more than so much."""
    actions = np.random.default_rng(0).uniform(-180, 180, (10_000, num_actions))
    episodes = [
        Episode(
            obs=np.zeros((1, 1)), actions=row[None], rewards=np.zeros(1), terminated=True, meta={"language": "put it"}
        )
        for row in actions
    ]
    ReplayBuffer.from_episodes(episodes, action_dim=num_actions, action_sizes=()).save(tmp_path / "a.npz")
    assert run("convert", tmp_path / "a.npz", tmp_path / "b.npz", "--scale-actions", "data") == 0
    found = ReplayBuffer.load(tmp_path / "b.npz")
    scaled = np.concatenate([episode.actions for episode in found.episodes()])
    np.testing.assert_allclose([scaled.min(0), scaled.max(0)], [[-1] * num_actions, [1] * num_actions], atol=1e-5)
    assert all(("action_low" in episode.meta) == is_kept for episode in found.episodes())


def test_choices_have_no_scale(data, tmp_path, capsys):
    assert run("convert", data, tmp_path / "b.h5", "--scale-actions", "data") == 2
    assert "choices" in capsys.readouterr().err


def test_what_never_changes_becomes_zero(tmp_path):
    episode = Episode(obs=np.zeros((2, 1)), actions=[[5e17, 7.0], [5e17, 9.0]], rewards=np.zeros(2), terminated=True)
    ReplayBuffer.from_episodes([episode], action_dim=2, action_sizes=()).save(tmp_path / "a.npz")
    assert run("convert", tmp_path / "a.npz", tmp_path / "b.npz", "--scale-actions", "data") == 0
    (found,) = ReplayBuffer.load(tmp_path / "b.npz").episodes()
    np.testing.assert_allclose(found.actions, [[0, -1], [0, 1]], atol=1e-3)
