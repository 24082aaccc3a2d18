from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.tdmpc2.tiny_tdmpc2 import make_batch, make_config, make_model
from worldline.errors import ConfigError, DataError, FileError
from worldline.models.tdmpc2 import TDMPC2
from worldline.models.tdmpc2.official import infer_settings, read_checkpoint, to_official

GOLDEN = Path(__file__).parents[3].parent / "shared" / "golden" / "tdmpc2"
PARTS = ("weight", "bias", "ln.weight", "ln.bias")


def old_layout(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint as the older code named things."""
    result = {}
    for name, tensor in tensors.items():
        for new, old in (("_Qs.params.", "_Qs"), ("_target_Qs_params.", "_target_Qs")):
            if name.startswith(new):
                layer, _, part = name.removeprefix(new).partition(".")
                result[f"{old}.params.{4 * int(layer) + PARTS.index(part)}"] = tensor
        if "Qs" not in name and name not in ("log_std_min", "log_std_dif", "_action_masks"):
            result[name] = tensor
    return result


CASES: dict[str, dict[str, Any]] = {
    "plain": {"episodic": False},
    "episodic": {"episodic": True, "num_q": 5, "encoder_layers": 4, "num_bins": 51},
    "tasks": {"episodic": False, "task_action_dims": (1, 2, 2), "task_dim": 6},
    "pixels": {"obs_shape": (9, 64, 64), "latent": 512, "image_channels": 32, "episodic": False},
}


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("case", CASES)
def test_a_model_comes_back_as_it_was(case: str, layout: str, tmp_path: Path):
    model = make_model(**CASES[case]).eval()
    path = tmp_path / "model.pt"
    model.export_official(path)
    given: dict[str, Any] = {}
    if layout == "old":
        torch.save({"model": old_layout(torch.load(path, weights_only=True)["model"])}, path)
        given = {"task_action_dims": CASES[case].get("task_action_dims", ())}
    loaded = TDMPC2.from_official(path, **given)
    dimensions = ("obs_shape", "action_dim", "latent", "units", "num_q", "num_bins", "episodic", "task_action_dims")
    for name in dimensions:
        assert getattr(loaded.config, name) == getattr(model.config, name), name
    assert not loaded.training
    for name, tensor in model.net.state_dict().items():
        if name != "task_embedding":
            assert torch.equal(loaded.net.state_dict()[name], tensor), name
    batch = make_batch(model.config)
    torch.testing.assert_close(loaded.observe(batch).latent, model.observe(batch).latent)


def test_task_embeddings_are_brought_into_the_unit_ball(tmp_path: Path):
    """The official code does so when it looks one up."""
    model = make_model(**CASES["tasks"])
    with torch.no_grad():
        model.net.task_embedding[0].fill_(3.0)
    model.export_official(tmp_path / "model.pt")
    loaded = TDMPC2.from_official(tmp_path / "model.pt")
    assert loaded.net.task_embedding[0].norm().item() == pytest.approx(1.0)
    assert torch.equal(loaded.net.task_embedding[1], model.net.task_embedding[1])


def test_without_masks_all_tasks_have_all_actions(tmp_path: Path):
    tensors = old_layout(to_official(make_model(**CASES["tasks"])))
    torch.save({"model": tensors}, tmp_path / "model.pt")
    assert TDMPC2.from_official(tmp_path / "model.pt").config.task_action_dims == (2, 2, 2)


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint_old_api.pt"])
def test_the_golden_checkpoints(name: str, tmp_path: Path):
    if not GOLDEN.is_dir():
        pytest.skip(f"needs the reference's values in {GOLDEN}")
    model = TDMPC2.from_official(GOLDEN / name, episode_length=500)
    config = model.config
    assert (config.obs_shape, config.action_dim, config.latent, config.units) == ((5,), 3, 16, 48)
    assert (config.encoder_units, config.encoder_layers, config.num_q, config.episodic) == (32, 2, 2, False)
    assert (config.log_std_min, config.log_std_max) == (-10, 2)
    model.export_official(tmp_path / "again.pt")
    theirs = torch.load(GOLDEN / "checkpoint.pt", weights_only=True)["model"]
    ours = torch.load(tmp_path / "again.pt", weights_only=True)["model"]
    assert ours.keys() == theirs.keys()
    assert all(ours[key].shape == tensor.shape for key, tensor in theirs.items())
    compared = [key for key in theirs if ".module." not in key]
    assert all(torch.equal(ours[key], theirs[key].to(ours[key].dtype)) for key in compared)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/worldline-was-here"),))


def test_nothing_but_tensors_is_read(tmp_path: Path):
    path = tmp_path / "model.pt"
    torch.save({"model": Hostile()}, path)
    with pytest.raises(FileError, match="nothing in it but tensors is read"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(FileError):
        read_checkpoint(path)
    assert not Path("/tmp/worldline-was-here").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_files_that_are_no_checkpoints(content: bytes | None, tmp_path: Path):
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=r"model\.pt"):
        TDMPC2.from_official(path)
    for other in ({"model": {"a": torch.zeros(1)}}, [1, 2], {"model": 3}):
        torch.save(other, path)
        with pytest.raises(FileError, match="is not a checkpoint of TD-MPC2"):
            TDMPC2.from_official(path)


def test_a_damaged_half(tmp_path: Path):
    path = tmp_path / "model.pt"
    make_model().export_official(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileError, match="Cannot read"):
        TDMPC2.from_official(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_pi.2.weight": None}, "_pi.2.weight"),
        ({"_pi.2.bias": None}, "lacks the tensor 'policy.layers.2.bias'"),
        ({"_reward.1.weight": torch.zeros(3, 3)}, r"'reward.layers.1.weight' is .* of shape \(3, 3\)"),
        ({"more": torch.zeros(1)}, "does not know: more"),
        ({"_dynamics.0.weight": torch.zeros(24, 7)}, "dynamics take 7 numbers"),
        ({"_dynamics.0.weight": torch.zeros(7)}, "missing or misshapen"),
        ({"_encoder.state.0.weight": None}, "missing or misshapen"),
    ],
)
def test_tensors_that_do_not_fit(change: dict[str, Any], message: str, tmp_path: Path):
    tensors = {**to_official(make_model()), **change}
    torch.save({"model": {key: value for key, value in tensors.items() if value is not None}}, tmp_path / "model.pt")
    with pytest.raises(DataError, match=message):
        TDMPC2.from_official(tmp_path / "model.pt")


def test_settings_that_are_not_of_the_model(tmp_path: Path):
    make_model().export_official(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="Did you mean 'horizon'"):
        TDMPC2.from_official(tmp_path / "model.pt", horizn=5)
    assert TDMPC2.from_official(tmp_path / "model.pt", horizon=5).config.horizon == 5


def test_what_the_official_code_cannot_build(tmp_path: Path):
    for changes in ({"action_type": "discrete"}, {"obs_shape": {"i": (64, 64, 3), "v": (2,)}}):
        with pytest.raises(DataError, match="official code knows continuous actions"):
            make_model(**changes).export_official(tmp_path / "model.pt")


def test_inferred_settings_are_those_of_a_configuration():
    settings = infer_settings(to_official(make_model(task_action_dims=(1, 2), task_dim=5)))
    assert make_config(**settings).task_action_dims == (1, 2)
