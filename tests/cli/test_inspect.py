"""worldline inspect."""

import shutil

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
    for words in ("│ 12 │", "12 terminated, 0 truncated", "discrete, 2 wide", "CartPole-v1", "obs[3]", "float32"):
        assert words in text


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


def test_wrong_targets(tmp_path, capsys):
    (tmp_path / "file.npz").write_text("nonsense")
    for target, message in ((tmp_path / "no", "There is no"), (tmp_path, "not a saved model")):
        assert run("inspect", target) == 2
        assert message in capsys.readouterr().err
    assert run("inspect", tmp_path / "file.npz") == 2
    assert "file.npz" in capsys.readouterr().err
