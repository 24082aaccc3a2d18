"""Hostile checkpoints and saved models."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.making import (
    Make,
    Payload,
    bomb,
    case,
    entry,
    npy_header,
    npz,
    objects,
    safetensors,
)
from models.tdmpc2.tiny_tdmpc2 import make_model
from training.killable_run import ActingModel, _open_sampler
from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.training import CheckpointCallback, DataCallback, EarlyStoppingCallback, Trainer
from worldline.training.checkpoint import _manifest_text

# --- tensors, in checkpoints and in saved models --------------------

TENSORS: dict[str, bytes | Callable[[], bytes]] = {
    "a header beyond the file": safetensors(b"{}", length=1 << 60),
    "a header of 10 MB": lambda: safetensors(b'{"a":"' + b" " * (10 << 20) + b'"}'),
    "a header of brackets": safetensors(b"[" * 100_000),
    "a header of braces": safetensors(b'{"a":' * 100_000),
    "a header that is no JSON": safetensors(b"os.system('touch code_was_run')"),
    "a header that is a list": safetensors(b"[]"),
    "no header": b"\0" * 8,
    "offsets that overlap": safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
    "offsets beyond the file": safetensors({"a": entry([1 << 40], 0, 1 << 42)}, bytes(16)),
    "offsets that run backwards": safetensors({"a": entry([4], 16, 0)}, bytes(16)),
    "offsets with a hole": safetensors({"a": entry([1], 0, 4), "b": entry([1], 12, 16)}, bytes(16)),
    "the same tensor twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "sizes of another dtype": safetensors({"a": entry([4], 0, 16, "F64")}, bytes(16)),
    "an unknown dtype": safetensors({"a": entry([4], 0, 16, "O")}, bytes(16)),
    "a negative shape": safetensors({"a": entry([-4], 0, 16)}, bytes(16)),
    "a shape beyond counting": safetensors({"a": entry([1 << 62, 1 << 62], 0, 16)}, bytes(16)),
    "a shape of floats": safetensors({"a": entry([4.5], 0, 18)}, bytes(18)),
    "a shape without numbers": safetensors({"a": entry([1 << 62, 0], 0, 0)}),
    "60,000 tensors": lambda: safetensors({f"{i}": entry([0], 0, 0) for i in range(60_000)}),
    "a pickle": lambda: pickle.dumps(Payload()),
    "metadata that is none": safetensors({"__metadata__": {"a": [1]}, "a": entry([1], 0, 4)}, bytes(4)),
}


def valid_checkpoint(path: Path) -> None:
    """Make a folder of two checkpoints, of steps 1 and 2."""
    trainer = Trainer(TinyModel(), make_config(), [EarlyStoppingCallback(), CheckpointCallback(path, 1)])
    trainer.train(TinySampler(), num_steps=2)


def valid_model(path: Path) -> None:
    make_model().save_pretrained(path)


_TEMPLATES: dict[Make, Path] = {}


def copy_of(make: Make, path: Path) -> None:
    """Copy what `make` makes to `path`; it is made once."""
    if make not in _TEMPLATES:
        _TEMPLATES[make] = path.parent / f"template of {make.__name__}"
        make(_TEMPLATES[make])
    shutil.copytree(_TEMPLATES[make], path, symlinks=True)


def put(checkpoint: Path, name: str, content: bytes) -> None:
    """Put `content` in the place of a file of a checkpoint, and mend the manifest: a hostile author can."""
    (checkpoint / name).write_bytes(content)
    mend(checkpoint)


def mend(checkpoint: Path) -> None:
    listed = {}
    for path in sorted(checkpoint.iterdir()):
        if path.name != "manifest.json":
            content = path.read_bytes()
            listed[path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (checkpoint / "manifest.json").write_text(_manifest_text(listed))


for name, content in TENSORS.items():
    for file in ("model", "optimizer", "rng"):

        def make_tensors(path: Path, file: str = file, content: bytes | Callable[[], bytes] = content) -> None:
            copy_of(valid_checkpoint, path)
            for step in path.glob("step_*"):
                put(step, f"{file}.safetensors", content if isinstance(content, bytes) else content())

        if file == "model" or name.startswith("a "):
            case(f"{file}.safetensors of a checkpoint: {name}", "resume")(make_tensors)

    def make_weights(path: Path, content: bytes | Callable[[], bytes] = content) -> None:
        copy_of(valid_model, path)
        weights = content if isinstance(content, bytes) else content()
        (path / "model.safetensors").write_bytes(weights)
        document = json.loads((path / "config.json").read_text())
        document["weights"] = {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        (path / "config.json").write_text(json.dumps(document))

    case(f"model.safetensors of a model: {name}", "model")(make_weights)


# --- the other files of a checkpoint --------------------


def state(path: Path, **changes: Any) -> bytes:
    document = {**json.loads((path / "state.json").read_text()), **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def each_step(name: str, reader: str = "resume") -> Callable[[Make], Make]:
    """Add a case that does something to every checkpoint of a folder."""

    def add(change: Make) -> Make:
        def make(path: Path) -> None:
            copy_of(valid_checkpoint, path)
            for step in sorted(path.glob("step_*")):
                change(step)

        case(f"checkpoint: {name}", reader)(make)
        return change

    return add


def listing(**files: Any) -> bytes:
    return _manifest_text(files).encode()


STATES: dict[str, Callable[[Path], bytes]] = {
    "state of brackets": lambda path: b"[" * 1_000_000,
    "state of ten million values": lambda path: b"[" + b"[]," * 5_000_000 + b"1]",
    "state without settings": lambda path: state(path, config=None),
    "state with settings that are a list": lambda path: state(path, config=[1]),
    "state without callbacks": lambda path: state(path, callbacks=None),
    "state with other callbacks": lambda path: state(path, callbacks={"EarlyStoppingCallback": [1]}),
    "state with empty callbacks": lambda path: state(path, callbacks={"EarlyStoppingCallback": {}}),
    "state with a best step that is a path": lambda path: state(
        path, callbacks={"CheckpointCallback": {"best_step": "../../x", "best_value": 1.0}}
    ),
    "state of another step": lambda path: state(path, step=10**30),
    "state that is no text": lambda path: b"\xff\xfe",
    "state with an endless number": lambda path: b'{"step": ' + b"9" * 100_000 + b"}",
}
for name, change in STATES.items():
    each_step(name)(lambda path, change=change: put(path, "state.json", change(path)))  # type: ignore[misc]

MANIFESTS: dict[str, bytes] = {
    "manifest that leads outside": listing(**{"../../x": {"sha256": "", "size": 0}}),
    "manifest from the root": listing(**{"/etc/passwd": {"sha256": "", "size": 0}}),
    "manifest of brackets": b"[" * 1_000_000,
    "manifest of 20 MB": b" " * (20 << 20),
    "manifest that is a list": b"[1]",
    "manifest of numbers": listing(**dict.fromkeys(["model.safetensors", "state.json"], 1)),
    "manifest of sizes that are texts": listing(
        **{f"{name}.safetensors": {"sha256": [], "size": "1"} for name in ("model", "optimizer", "rng")},
        **{"state.json": {"sha256": [], "size": "1"}},
    ),
}
for name, content in MANIFESTS.items():
    each_step(name)(
        lambda path, content=content: (path / "manifest.json").write_bytes(content) and None  # type: ignore[misc]
    )


@each_step("generator of noise")
def _(path: Path) -> None:
    header = {"cpu": entry([5056], 0, 5056, "U8")}
    put(path, "rng.safetensors", safetensors(header, b"\xff" * 5056))


@each_step("generator of another size")
def _(path: Path) -> None:
    put(path, "rng.safetensors", safetensors({"cpu": entry([4], 0, 4, "U8")}, bytes(4)))


@each_step("no generator")
def _(path: Path) -> None:
    put(path, "rng.safetensors", safetensors({"gpu": entry([4], 0, 4, "U8")}, bytes(4)))


@each_step("weights of a terabyte")
def _(path: Path) -> None:
    with (path / "optimizer.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    document = json.loads((path / "manifest.json").read_text())
    document["files"]["optimizer.safetensors"]["size"] = 1 << 40
    (path / "manifest.json").write_text(_manifest_text(document["files"]))


@each_step("a link to a device")
def _(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to("/dev/zero")


@each_step("a pipe")
def _(path: Path) -> None:
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")


@each_step("a file that is a folder")
def _(path: Path) -> None:
    (path / "state.json").unlink()
    (path / "state.json").mkdir()


@case("checkpoint: a link that leads round in circles", "resume")
def _(path: Path) -> None:
    path.mkdir()
    (path / "step_00000007").symlink_to(path / "step_00000007")


# --- what is collected online --------------------


def valid_online(path: Path) -> None:
    model = ActingModel()
    sampler = _open_sampler(model, path / "replay")
    callbacks = [DataCallback(sampler), CheckpointCallback(path / "checkpoints", 50)]
    Trainer(model, make_config(), callbacks).train(sampler, num_steps=20)


def each_data_state(name: str) -> Callable[[Callable[[Path, dict[str, Any]], None]], None]:
    """Add a case that changes what a checkpoint says about the data, or the files that it names."""

    def add(change: Callable[[Path, dict[str, Any]], None]) -> None:
        def make(path: Path) -> None:
            copy_of(valid_online, path)
            for step in (path / "checkpoints").glob("step_*"):
                document = json.loads((step / "state.json").read_text())
                change(path / "replay", document["callbacks"]["DataCallback"])
                put(step, "state.json", json.dumps(document).encode())

        case(f"online: {name}", "online")(make)

    return add


def replace_replay(folder: Path, data: dict[str, Any], content: bytes) -> None:
    for listed in data["replay"]:
        (folder / listed["file"]).write_bytes(content)
        listed["sha256"] = hashlib.sha256(content).hexdigest()


each_data_state("episodes with objects")(lambda path, data: replace_replay(path, data, npz(obs=objects(Payload()))))
each_data_state("episodes of 2 GB")(
    lambda path, data: replace_replay(path, data, bomb("obs.npy", npy_header("'<f4'", (1 << 29,)), 2047, (2 << 30) - 1))
)
each_data_state("episodes of another environment")(lambda path, data: replace_replay(path, data, npz()))
each_data_state("episodes elsewhere")(
    lambda path, data: data.update(replay=[{"file": "../../../etc/passwd", "sha256": "", "num_episodes": 1}])
)
each_data_state("episodes that are no files")(lambda path, data: data.update(replay=[1, None]))
each_data_state("arrays of noise")(lambda path, data: data.update(arrays="!" * 1000))
each_data_state("arrays of another kind")(lambda path, data: data.update(arrays=[1]))
each_data_state("arrays beyond counting")(
    lambda path, data: data.update(
        arrays=__import__("base64").b64encode(safetensors({"a": entry([1 << 60], 0, 1 << 62)}, bytes(8))).decode()
    )
)
each_data_state("no arrays")(lambda path, data: data.pop("arrays"))
each_data_state("seeds that are texts")(lambda path, data: data.update(episode_seeds=["a", "b"]))
each_data_state("seeds that are missing")(lambda path, data: data.update(episode_seeds=[]))

# --- configurations of models --------------------


def model_config(name: str, **changes: Any) -> None:
    def make(path: Path) -> None:
        copy_of(valid_model, path)
        document = json.loads((path / "config.json").read_text())
        for key, value in changes.items():
            (document["config"] if key in document["config"] else document)[key] = value
        (path / "config.json").write_text(json.dumps(document))

    case(f"config.json: {name}", "model")(make)


model_config("an unknown family", family="evil")
model_config("a family that is a path", family="../../evil")
model_config("a family that is a module", family="os:system")
model_config("a family of 60,000 letters", family="x" * 60_000)
model_config("a family that is a number", family=3)
model_config("an unknown setting", config={"__class__": "os.system"})
model_config("a network beyond counting", units=1 << 62)
model_config("a network of a terabyte", units=1 << 19)
model_config("a million layers", encoder_layers=1_000_000)
model_config("a million members", num_q=1_000_000)
model_config("observations of any shape", obs_shape=[1 << 40])
model_config("a million observations", obs_shape={f"{i}": [1] for i in range(5000)})
model_config("a negative size", latent=-8)
model_config("an infinite number", log_std_min=float("inf"))
model_config("another version", version="9" * 50_000)
model_config("a size that is none", weights={"size": 10**30, "sha256": "x"})

for name, content in {
    "brackets": b"[" * 60_000,
    "8 MB": b" " * (8 << 20),
    "no text": b"\xff" * 100,
    "an endless number": b'{"format": ' + b"9" * 60_000 + b"}",
}.items():

    def make_config_json(path: Path, content: bytes = content) -> None:
        copy_of(valid_model, path)
        (path / "config.json").write_bytes(content)

    case(f"config.json: {name}", "model")(make_config_json)
