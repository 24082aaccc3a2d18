from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tiny_family import Tiny, TinyConfig, make_batch
from worldline.errors import DataError, FileError
from worldline.models.base import (
    Model,
    WorldModel,
    build_outline,
    check_tensors,
    load_weights,
    num_trained,
    read_pretrained,
)
from worldline.protocols import Policy, Trainable


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny(TinyConfig(obs_shape=(4,), action_dim=2))


@pytest.fixture
def saved(model: Tiny, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(saved: Path, **changes: Any) -> None:
    """Change entries of the saved model's config.json; None removes one."""
    path = saved / "config.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def test_a_model_satisfies_the_protocols(model: Tiny):
    assert isinstance(model, Trainable)
    assert isinstance(model, Policy)


def test_the_base_classes_are_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Model(None)
    with pytest.raises(TypeError, match="abstract"):
        WorldModel(None)


def test_forward_is_the_loss(model: Tiny):
    """A data-parallel wrapper synchronises what goes through forward."""
    batch = make_batch()
    assert torch.equal(model(batch)["loss"], model.compute_loss(batch)["loss"])


def test_default_group_holds_what_takes_gradients(model: Tiny):
    model.decoder.requires_grad_(False)
    (group,) = model.param_groups()
    assert {id(p) for p in group.params} == {
        id(p) for name, p in model.named_parameters() if not name.startswith("decoder")
    }


def test_save_and_read_are_inverse(model: Tiny, saved: Path):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    read = read_pretrained(saved)
    assert read.family == "tiny"
    assert read.config == {"obs_shape": [4], "action_dim": 2, "width": 8, "num_layers": 0}
    assert read.tensors.keys() == model.state_dict().keys()
    other = Tiny(TinyConfig(obs_shape=(4,), action_dim=2))
    load_weights(other, read.tensors, where="here")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert other.scale == 0.5  # not saved, not lost


def test_saving_twice_gives_the_same_bytes(model: Tiny, saved: Path, tmp_path: Path):
    model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_saving_over_a_model_replaces_it(model: Tiny, saved: Path):
    with torch.no_grad():
        model.encoder.bias.fill_(3.0)
    model.save_pretrained(saved)
    assert (read_pretrained(saved).tensors["encoder.bias"] == 3).all()
    assert len(list(saved.iterdir())) == 2


def test_a_crash_while_writing_leaves_the_older_model(
    model: Tiny, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with torch.no_grad():
        model.encoder.bias.fill_(3.0)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worldline.files.sync", full)
    with pytest.raises(FileError, match=r"Cannot save the model.*No space left.*room for it"):
        model.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    read_pretrained(saved)


def test_tied_weights_are_saved(model: Tiny, tmp_path: Path):
    model.encoder.bias = model.dynamics.bias
    model.save_pretrained(tmp_path)
    tensors = read_pretrained(tmp_path).tensors
    assert torch.equal(tensors["encoder.bias"], tensors["dynamics.bias"])


def test_saving_where_a_file_is(model: Tiny, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Cannot save the model"):
        model.save_pretrained(tmp_path / "file")


def test_every_flipped_bit_is_noticed(saved: Path):
    path = saved / "model.safetensors"
    intact = path.read_bytes()
    for position in [0, 7, 8, 9, len(intact) // 2, len(intact) - 1]:
        damaged = bytearray(intact)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"model.safetensors is (damaged|not a safetensors file).*Restore it"):
            read_pretrained(saved)


@pytest.mark.parametrize("kept", [0, 1, 7, 100])
def test_truncated_weights(saved: Path, kept: int):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match=rf"has {kept} bytes, but config.json says \d+. Restore it"):
        read_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(saved: Path, name: str):
    (saved / name).unlink()
    with pytest.raises(FileError, match=rf"has no {name}"):
        read_pretrained(saved)


def test_nothing_there(tmp_path: Path):
    with pytest.raises(FileError, match=r"nothing is there. Expected a folder that save_pretrained wrote"):
        read_pretrained(tmp_path / "missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 50_000, "not valid JSON"),
        (b'{"a":' * 10_000, "not valid JSON"),
        (b"[]", "does not describe a Worldline model"),
        (b"null", "does not describe a Worldline model"),
        (b'{"format": "other"}', "does not describe a Worldline model"),
        (b'{"format": ["worldline-model"]}', "does not describe a Worldline model"),
        (b'{"format": "worldline-model", "version": 2}', "has format version 2; this release reads 1"),
        (b'{"format": "worldline-model", "version": "' + b"9" * 50_000 + b'"}', "has format version"),
        (b'{"format": "worldline-model", "version": 1}', "lacks family, config or weights"),
        (b" " * (1 << 16) + b"{}", r"has \d+ bytes; a configuration has at most"),
    ],
)
def test_hostile_configurations(saved: Path, content: bytes, message: str):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read_pretrained(saved)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"family": None},
        {"family": 3},
        {"config": [1]},
        {"config": None},
        {"weights": None},
        {"weights": {"size": "10", "sha256": ""}},
        {"weights": {"size": 10}},
        {"weights": {"size": 10, "sha256": 3}},
    ],
)
def test_incomplete_configurations(saved: Path, changes: dict[str, Any]):
    edit(saved, **changes)
    with pytest.raises(FileError, match=r"lacks family, config or weights. Restore it"):
        read_pretrained(saved)


def replace_weights(saved: Path, content: bytes) -> None:
    """Put `content` in the place of the weights, with the size and digest that belong to it: a hostile author can."""
    import hashlib

    (saved / "model.safetensors").write_bytes(content)
    edit(saved, weights={"size": len(content), "sha256": hashlib.sha256(content).hexdigest()})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 1 << 30) + b"x" * 100,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 10) + b"not json!!",
        b"\x80\x04\x95" + b"pickle" * 10,
    ],
)
def test_weights_that_are_not_safetensors(saved: Path, content: bytes):
    replace_weights(saved, content)
    with pytest.raises(FileError, match=r"is not a safetensors file.*Restore it"):
        read_pretrained(saved)


def test_weights_that_claim_more_than_the_file_holds(saved: Path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    replace_weights(saved, struct.pack("<Q", len(header)) + header)
    with pytest.raises(FileError, match="is not a safetensors file"):
        read_pretrained(saved)


def test_load_weights_refuses_what_does_not_fit_and_changes_nothing(model: Tiny):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    for changed, message in [
        ({**tensors, "reward.bias": torch.ones(2)}, r"'reward.bias' is torch.float32 of shape \(2,\), .* \(1,\)"),
        ({**tensors, "reward.bias": torch.ones(1, dtype=torch.int64)}, "'reward.bias' is torch.int64"),
        ({name: tensor for name, tensor in tensors.items() if name != "reward.bias"}, "lacks the tensor 'reward.bias'"),
        ({**tensors, "extra": torch.ones(1)}, "does not know: extra"),
    ]:
        with pytest.raises(DataError, match=message):
            load_weights(model, changed, where="the file")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_half_precision_weights_load(model: Tiny):
    load_weights(
        model, {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}, where=""
    )
    assert model.encoder.weight.dtype == torch.float32


def test_an_outline_takes_no_memory_and_a_bounded_time():
    config = TinyConfig(obs_shape=(1 << 30,), action_dim=2, num_layers=3)
    outline = build_outline(lambda: Tiny(config), num_tensors=15)
    assert {tensor.device.type for tensor in outline.state_dict().values()} == {"meta"}
    many = TinyConfig(obs_shape=(4,), action_dim=2, num_layers=1 << 40)
    with pytest.raises(DataError, match="far more parameters than the 15 tensors that were saved"):
        build_outline(lambda: Tiny(many), num_tensors=15)


def test_a_model_that_is_given_up_leaves_gradients_on():
    def build() -> Any:
        with torch.no_grad():  # as initialisers do
            return [torch.zeros(1) for _ in range(10_000)]

    with pytest.raises(DataError, match="far more parameters"):
        build_outline(build, num_tensors=2)
    assert torch.is_grad_enabled()


def test_an_outline_leaves_other_threads_alone():
    """They build real models meanwhile, of any size."""
    inside, built = threading.Event(), threading.Event()
    config = TinyConfig(obs_shape=(4,), action_dim=2)

    def build() -> Tiny:
        outline = Tiny(config)
        inside.set()
        assert built.wait(60)
        return outline

    with ThreadPoolExecutor(1) as threads:
        outline = threads.submit(build_outline, build, num_tensors=9)
        assert inside.wait(60)
        model = Tiny(TinyConfig(obs_shape=(4,), action_dim=2, num_layers=300))
        built.set()
        assert {tensor.device.type for tensor in outline.result().state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_only_what_takes_gradients_is_trained(model: Tiny):
    total = num_trained(model)
    assert total == sum(parameter.numel() for parameter in model.parameters())
    model.decoder.requires_grad_(False)
    assert num_trained(model) == total - (8 * 4 + 4)


def test_check_tensors_needs_no_memory(model: Tiny):
    with torch.device("meta"):
        outline = Tiny(TinyConfig(obs_shape=(1 << 40,), action_dim=2))
    with pytest.raises(DataError, match=r"encoder\.weight"):
        check_tensors(outline, model.state_dict(), where="the file")


# Peak memory is a process's own: each refusal runs in one that has loaded the libraries already.
_MEASURE = """
import resource, sys
from worldline.errors import WorldlineError
from worldline.models.base import read_pretrained
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024)
try: read_pretrained(sys.argv[1])
except WorldlineError: pass
before = peak()
try: read_pretrained(sys.argv[2])
except WorldlineError as error: print(peak() - before, error)
else: raise SystemExit("it was not refused")
"""


def refusal(small: Path, hostile: Path) -> tuple[float, str]:
    """Return the memory in MB that refusing `hostile` takes, beyond what reading `small` does, and the message."""
    out = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(small), str(hostile)], capture_output=True, text=True, check=True
    ).stdout
    megabytes, _, message = out.partition(" ")
    return float(megabytes), message


@pytest.mark.parametrize("kind", ["flipped", "header", "truncated"])
def test_refusals_take_little_memory(saved: Path, tmp_path: Path, kind: str):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    weights = hostile / "model.safetensors"
    (hostile / "config.json").write_bytes((saved / "config.json").read_bytes())
    size = 128 << 20
    if kind == "header":  # JSON as large as the file, which a reader would parse as a whole
        weights.write_bytes(struct.pack("<Q", (96 << 20)) + b'{"a":"' + b"x" * ((96 << 20) - 8) + b'"}')
        edit(hostile, weights={"size": weights.stat().st_size, "sha256": ""})
    else:
        save_file({"w": torch.zeros(size // 4)}, weights)
        edit(hostile, weights={"size": weights.stat().st_size + (kind == "truncated"), "sha256": "0" * 64})
    extra, message = refusal(saved, hostile)
    assert "Restore it" in message
    assert extra < 64
