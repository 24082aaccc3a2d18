"""A run's folder: what is read back, what is refused."""

import math
import shutil

import pytest

from worldline.cli import runs
from worldline.errors import ConfigError, FileError


def test_metrics_leave_out_what_a_kill_cut_short(tmp_path):
    assert runs.read_metrics(tmp_path) == []
    lines = [
        '{"step": 1, "loss": 2.5, "note": "text"}', "[3]", '{"loss": 1}', '{"step": null}', '{"step": NaN}', "[" * 9999,
        '{"step": 2, "rate": %s}' % ("9" * 400), '{"step": 3, "lo',
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff")
    assert runs.read_metrics(tmp_path) == [{"step": 1.0, "loss": 2.5}, {"step": 2.0, "rate": math.inf}]


def test_metrics_that_were_not_finite_are_nan(tmp_path):
    rows = ['{"step": 1, "loss": null}', '{"step": 2, "loss": 3}', '{"step": 3, "eval/return": 9}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    metrics = runs.read_metrics(tmp_path)
    assert math.isnan(metrics[0]["loss"])
    assert runs.logged(metrics, "loss") == [(2, 3.0)]


def test_a_configuration_survives_the_round_trip(finished_run, tmp_path):
    config = runs.read_config(finished_run / "config.yaml", runs.RunConfig)
    runs.write_config(tmp_path / "deep" / "config.yaml", config)
    assert runs.read_config(tmp_path / "deep" / "config.yaml", runs.RunConfig) == config
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["config.yaml"]


def test_a_missing_and_a_huge_configuration_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"no config\.yaml"):
        runs.read_config(tmp_path / "config.yaml", runs.RunConfig)
    with (tmp_path / "config.yaml").open("wb") as file:
        file.truncate(2 << 20)
    with pytest.raises(FileError, match="2097152 bytes"):
        runs.read_config(tmp_path / "config.yaml", runs.RunConfig)


def test_a_configuration_is_never_run(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("!!python/object/apply:os.mkdir [made]\n")
    with pytest.raises(FileError, match="cannot be read"):
        runs.read_config(path, runs.RunConfig)


def test_what_a_killed_write_left_does_not_make_a_folder_full(tmp_path):
    (tmp_path / ".config.yaml.tmp").touch()
    runs.check_folder(tmp_path, resume=False)
    runs.check_folder(tmp_path, resume=True)
    (tmp_path / "other").touch()
    with pytest.raises(ConfigError, match="Choose another folder"):
        runs.check_folder(tmp_path, resume=False)


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for write in (runs.make_folder, lambda path: runs.write_text(path / "a.txt", "text")):
        with pytest.raises(FileError, match="may write to"):
            write(tmp_path / "file" / "below")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(FileError, match="Cannot write"):
        runs.write_text(tmp_path / "a.txt", "text")


def test_a_folder_that_is_read_only_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(FileError, match="cannot be written to"):
        runs.make_folder(tmp_path)


def test_damaged_checkpoints_are_passed_over(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    newest = tmp_path / "run" / "checkpoints" / "step_00000006"
    assert runs.saved_model(tmp_path / "run") == newest
    (newest / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert runs.saved_model(tmp_path / "run") == newest.with_name("step_00000003")
