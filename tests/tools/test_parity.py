from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from worldline.create import create_model
from worldline.models.tdmpc2.losses import td_targets

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared" / "golden"
DIRECTORIES = [GOLDEN / "dreamerv3_discrete_vector", GOLDEN / "dreamerv3_continuous_vector_image"]
LAST_LINE = re.compile(r"max relative error (\S+) over (\d+) quantities")


@pytest.fixture
def parity() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("parity", ROOT / "tools" / "parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    torch.set_flush_denormal(False)  # which the comparison switches on


def golden(directory: Path) -> Path:
    if not directory.is_dir():
        pytest.skip(f"needs the reference's values in {directory}")
    return directory


def perturbed(directory: Path, target: Path, file: str, name: str, factor: float) -> Path:
    """Copy the directory with one array multiplied by `factor`."""
    copy = Path(shutil.copytree(golden(directory), target, copy_function=shutil.copyfile))
    copy.chmod(0o755)
    arrays = dict(np.load(copy / file, allow_pickle=False))
    arrays[name] = arrays[name] * np.asarray(factor, arrays[name].dtype)
    np.savez(copy / file, **arrays)
    return copy


def failures(output: str) -> list[str]:
    return [line.split("  ")[0] for line in output.splitlines() if "FAILED" in line]


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: path.name)
def test_ours_is_the_reference(directory: Path, parity: ModuleType, capsys: pytest.CaptureFixture[str]):
    assert parity.main(["dreamerv3", str(golden(directory))]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    match = LAST_LINE.fullmatch(last)
    assert match is not None
    assert int(match[2]) == len(lines)
    assert float(match[1]) <= 1e-4
    names = [line.split("  ")[0] for line in lines]
    losses = {"dyn", "rep", "state", "rew", "con", "policy", "value", "repval"}
    images = {"image"} if "image" in directory.name else set()
    assert {name.removeprefix("loss/") for name in names if name.startswith("loss/")} == losses | images
    assert {"tokens", "repfeat/deter", "repfeat/stoch", "repfeat/logit", "metric/adv"} <= set(names)
    assert {"after 1: all parameters", "after 1: median element", "after 3: all parameters"} <= set(names)


# One thing each that the reference might have computed otherwise, and the line that must say so.
@pytest.mark.parametrize(
    ("file", "name", "factor", "line"),
    [
        ("io.npz", "out/loss/rew", 1.0001, "loss/rew"),
        ("io.npz", "out/repfeat/deter", 1.0001, "repfeat/deter"),
        ("io.npz", "out/metric/ent/action", 1.0001, "metric/ent/action"),
        ("params_after_3.npz", "rew/head/logits/bias", 1.01, "after 3: all parameters"),
        ("params_before.npz", "con/head/logit/bias", 1.0, None),
    ],
)
def test_a_difference_fails(
    file: str,
    name: str,
    factor: float,
    line: str | None,
    tmp_path: Path,
    parity: ModuleType,
    capsys: pytest.CaptureFixture[str],
):
    copy = perturbed(DIRECTORIES[0], tmp_path / "golden", file, name, factor)
    assert parity.main(["dreamerv3", str(copy)]) == (0 if line is None else 1)
    assert failures(capsys.readouterr().out) == ([] if line is None else [line])


def test_a_difference_in_the_model_fails(tmp_path: Path, parity: ModuleType, capsys: pytest.CaptureFixture[str]):
    copy = perturbed(DIRECTORIES[0], tmp_path / "golden", "params_before.npz", "dyn/dynhid0/kernel", 1.001)
    assert parity.main(["dreamerv3", str(copy)]) == 1
    assert {"repfeat/deter", "loss/state", "step 1 loss"} <= set(failures(capsys.readouterr().out))


def test_another_setting_fails(tmp_path: Path, parity: ModuleType, capsys: pytest.CaptureFixture[str]):
    copy = Path(shutil.copytree(golden(DIRECTORIES[0]), tmp_path / "golden", copy_function=shutil.copyfile))
    copy.chmod(0o755)
    settings = json.loads((copy / "config.json").read_text())
    settings["agent"]["imag_loss.lam"] = 0.9
    (copy / "config.json").write_text(json.dumps(settings))
    assert parity.main(["dreamerv3", str(copy)]) == 1
    failed = failures(capsys.readouterr().out)
    assert {"loss/policy", "loss/value", "loss/repval"} <= set(failed)
    assert not {"loss/dyn", "loss/state", "tokens"} & set(failed)


def test_other_directories_of_that_layout(tmp_path: Path, parity: ModuleType, capsys: pytest.CaptureFixture[str]):
    """The parameters after a step are compared where they are there; there may be images alone."""
    copy = Path(shutil.copytree(golden(DIRECTORIES[0]), tmp_path / "golden", copy_function=shutil.copyfile))
    copy.chmod(0o755)
    (copy / "params_after_3.npz").unlink()
    assert parity.main(["dreamerv3", str(copy)]) == 0
    assert "after 3" not in capsys.readouterr().out
    reference = json.loads((golden(DIRECTORIES[1]) / "config.json").read_text())
    io = dict(np.load(DIRECTORIES[1] / "io.npz", allow_pickle=False))
    del io["state"]
    model = parity.build_model(reference, io)
    assert list(model.config.obs_shapes) == ["image"]
    assert model.loss_of_rows(parity.build_rows(io, 3), deterministic=True)["loss"].isfinite()


TDMPC2 = GOLDEN / "tdmpc2"


def test_tdmpc2_is_the_reference(parity: ModuleType, capsys: pytest.CaptureFixture[str]):
    assert parity.main(["tdmpc2", str(golden(TDMPC2))]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    match = LAST_LINE.fullmatch(last)
    assert match is not None
    assert int(match[2]) == len(lines) == 40
    assert float(match[1]) <= 1e-5
    names = {line.split("  ")[0].partition(": ")[2] for line in lines}
    inputs = {"obs", "actions", "rewards", "terminated", "plan_candidates"}
    assert names == set(np.load(TDMPC2 / "io.npz", allow_pickle=False).files) - inputs


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("encode", 1.0001),
        ("q_logits", 1.0001),
        ("pi_log_std", 1.0001),
        ("td_target", 1.0001),
        ("value_loss", 1.0001),
        ("total_loss", 1.0001),
        ("grad_norm_q", 1.001),
        ("plan_values", 1.001),
    ],
)
def test_a_difference_of_tdmpc2_fails(
    name: str, factor: float, tmp_path: Path, parity: ModuleType, capsys: pytest.CaptureFixture[str]
):
    copy = perturbed(TDMPC2, tmp_path / "golden", "io.npz", name, factor)
    assert parity.main(["tdmpc2", str(copy)]) == 1
    assert failures(capsys.readouterr().out) == [f"checkpoint: {name}", f"checkpoint_old_api: {name}"]


@pytest.mark.parametrize("episodic", [False, True])
def test_tdmpc2_of_other_dimensions(
    episodic: bool, tmp_path: Path, parity: ModuleType, capsys: pytest.CaptureFixture[str]
):
    """With five Qs, of which the reference draws two, and with ends: what we compute agrees with itself."""
    settings = {"action_type": "continuous", "episodic": episodic, "num_q": 5, "plan_policy_samples": 0}
    model = create_model(
        "tdmpc2:1m", obs_shape=(7,), action_dim=2, latent=24, units=32, encoder_units=16, **settings
    ).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.export_official(tmp_path / "checkpoint.pt")
    reference = json.loads((golden(TDMPC2) / "config.json").read_text()) | {"episodic": episodic}
    (tmp_path / "config.json").write_text(json.dumps(reference))
    terminated = (torch.rand(3, 6, 1) < 0.3).float() * episodic
    io = {"obs": torch.randn(4, 6, 7), "actions": torch.rand(3, 6, 2), "rewards": torch.randn(3, 6, 1)}
    inputs = io | {"terminated": terminated, "plan_candidates": torch.rand(3, 20, 2)}
    segments = importlib.import_module("parity_tdmpc2").segments_of(inputs, model)
    pair = [1, 3]
    latents = model.net.latents({"obs": inputs["obs"].flatten(0, 1)}, None).view(4, 6, -1)
    target = td_targets(model.net, segments, latents[1:], deterministic=True, pair=pair)
    loss = model.loss_of_segments(segments, deterministic=True, pair=pair)
    outputs = {"td_target": target[..., None], "value_loss": loss["value"]}
    arrays = {name: value.detach().numpy() for name, value in (inputs | outputs).items()}
    np.savez(tmp_path / "io.npz", **arrays, plan_values=np.zeros((20, 1), np.float32), extra=np.zeros(1))
    assert parity.main(["tdmpc2", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert failures(output) == ["checkpoint: plan_values"]  # which we did not give
    assert "checkpoint: extra is not compared" in output
    assert "over 3 quantities" in output


@pytest.mark.parametrize("arguments", [[], ["dreamerv3"], ["nonsense", "."], ["dreamerv3", "missing"], ["a", "b", "c"]])
def test_wrong_usage(arguments: list[str], parity: ModuleType, capsys: pytest.CaptureFixture[str]):
    assert parity.main(arguments) == 2
    assert "Usage: python tools/parity.py dreamerv3 DIR" in capsys.readouterr().out


def test_report(parity: ModuleType, capsys: pytest.CaptureFixture[str]):
    report = parity.Report()
    report.compare("off by a tenth", np.array([3.0, 4.0]) * 1.1, np.array([3.0, 4.0]), 0.2)
    assert not report.failed
    report.compare("not a number", np.nan, 1.0)
    report.compare("another shape", np.zeros(2), np.zeros(3))
    report.compare_median("median", np.array([1.0, 2.0, 99.0]), np.array([1.0, 2.0, 3.0]))
    assert report.finish() == 1
    output = capsys.readouterr().out
    assert "1.00e-01  (at most 2e-01)\n" in output
    assert failures(output) == ["not a number", "another shape"]
    assert "shapes (2,) and (3,)" in output


def test_as_a_command(tmp_path: Path):
    copy = perturbed(DIRECTORIES[0], tmp_path / "golden", "io.npz", "out/tokens", 1.01)
    command = [sys.executable, str(ROOT / "tools" / "parity.py"), "dreamerv3", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert failures(done.stdout) == ["tokens"]
