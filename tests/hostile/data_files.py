"""Hostile data files, official checkpoints, configurations and logs."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from hostile.making import (
    Payload,
    bomb,
    case,
    npy_header,
    npy_text,
    npz,
    objects,
    official,
    pt,
    saved,
    write,
    zip_of,
)

# --- files for readers of data and of official checkpoints --------------------

ANY_FILE = ("buffer", "official", "trajectories")
PICKLES: dict[str, bytes | Callable[[], bytes]] = {
    "reduce in a .pt": lambda: saved({"model": Payload()}),
    "reduce in an old .pt": lambda: saved({"model": Payload()}, _use_new_zipfile_serialization=False),
    "reduce in a pickle": lambda: pickle.dumps(Payload()),
    "reduce in a pickle of protocol 0": lambda: pickle.dumps(Payload(), protocol=0),
    "reduce in a stack global": pt(b"\x80\4\x8c\5posix\x8c\6system\x93\x8c\7echo hi\x85R."),
    "eval in a pickle": pt(b"c__builtin__\neval\n(V__import__('os').system('touch code_was_run')\ntR."),
    "instance opcode": pt(b"(S'touch code_was_run'\nios\nsystem\n."),
    "a bytearray of 4 GB": pt(b"\x80\2cbuiltins\nbytearray\n\x8a\5\0\0\0\0\1\x85R."),
    "a pickle of 300 MB deflated": lambda: bomb("archive/data.pkl", b"\x80\2", 300),
    "a pickle of a million marks": pt(b"\x80\2" + b"(" * 1_000_000 + b"."),
    "a pickle that ends": pt(b"\x80\2}q\0X"),
    "a storage that is longer than its file": lambda: saved({"model": {"_dynamics.0.weight": torch.zeros(4)}}).replace(
        b"K\4", b"J\0\0\0\x7f", 1
    ),
    "a deflated storage of 2 GB": lambda: bomb("archive/data/0", b"", 2047),
    "tensors without numbers": lambda: official(_dynamics__2__weight=torch.zeros(1 << 40, 0)),
    "tensors that repeat a number": lambda: official(_dynamics__0__weight=torch.zeros(1).expand(1 << 20, 1 << 20)),
    "tensors that are nowhere": lambda: official(_reward__2__weight=torch.empty(1 << 40, device="meta")),
    "an ensemble of a million": lambda: official(_Qs__params__0__weight=torch.zeros(1 << 20, 1, 1)),
    "sparse tensors": lambda: official(_pi__2__weight=torch.zeros(1 << 12, 1 << 12).to_sparse()),
    "an official checkpoint cut off": lambda: official()[:-300],
    "an official checkpoint cut in half": lambda: official()[: len(official()) // 2],
    "a table of contents of 3 GB": lambda: official()[:-10] + struct.pack("<2LH", 3 << 30, 0, 0),
}
for name, content in PICKLES.items():
    write(name, ANY_FILE, content)

ARCHIVES: dict[str, bytes | Callable[[], bytes]] = {
    "objects in an .npz": lambda: npz(obs=objects(Payload())),
    "objects in every array": lambda: npz(meta=objects(Payload()), action_dim=objects(Payload())),
    "objects within a structure": npz(obs=npy_header("[('a', '|O')]", (6,)) + pickle.dumps(Payload())),
    "a pickled .npy": lambda: npz(obs=objects(Payload()))[38:],
    "2 GB of zeros in 2 MB": lambda: bomb("obs.npy", npy_header("'<f4'", (1 << 29,)), 2047, (2 << 30) - 1),
    "2 GB of rewards in 2 MB": lambda: bomb("rewards.npy", npy_header("'|u1'", (2047 << 20,)), 2047),
    "a shape that is not there": npz(obs=npy_header("'<f4'", (1 << 29, 3)) + bytes(72)),
    "a shape beyond counting": npz(obs=npy_header("'<f8'", (1 << 62, 1 << 62)) + bytes(72)),
    "a negative shape": npz(obs=npy_header("'<f4'", (-6, -3)) + bytes(72)),
    "a shape of floats": npz(obs=npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (6.0, 3), }") + bytes(72)),
    "33 axes": npz(obs=npy_header("'<f4'", (1,) * 33) + bytes(4)),
    "a header that runs code": npz(obs=npy_text("__import__('os').system('touch code_was_run')") + bytes(72)),
    "a header of brackets": npz(obs=npy_text("(" * 60_000)),
    "a header of a sum": npz(obs=npy_text("+".join("1" * 30_000))),
    "a header of 1 GB": npz(obs=b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 30)),
    "text of 4 GB": npz(obs=npy_header("'<U1000000000'", (6,))),
    "an unknown dtype": npz(obs=npy_header("'<q7'", (6,))),
    "columns first, 1 GB": npz(obs=npy_header("'<f4'", (1 << 14, 1 << 14), fortran=True)),
    "a billion actions": lambda: npz(actions=np.zeros(6), action_dim=np.array(10**9)),
    "more actions than atoms": lambda: npz(action_dim=np.array(1e300)),
    "episodes that end before they begin": lambda: npz(
        worldline_format=np.array(1), episode_ends=np.array([6, 3]), dones=None
    ),
    "meta of brackets": lambda: npz(
        worldline_format=np.array(1),
        action_sizes=np.zeros(0, np.int64),
        episode_ends=np.array([3, 6]),
        terminated=np.ones(2, bool),
        truncated=np.zeros(2, bool),
        has_final_obs=np.zeros(2, bool),
        final_obs=np.zeros((2, 3), np.float32),
        meta=np.frombuffer(b"[" * 100_000, np.uint8),
    ),
    "a name that leads outside": zip_of([("../../obs.npy", b"x" * 99, 99, 0)]),
    "a name from the root": zip_of([("/tmp/obs.npy", b"x" * 99, 99, 0)]),
    "the same name twice": zip_of([("obs.npy", b"x" * 99, 99, 0)] * 2),
    "an encrypted member": zip_of([("obs.npy", b"x" * 99, 99, 0)], flags=1),
    "an exotic compression": zip_of([("obs.npy", b"x" * 99, 99, zipfile.ZIP_LZMA)]),
    "members that overlap": zip_of([(f"a{i}.npy", b"x" * 500, 500, 0) for i in range(9)], shift=400),
    "sizes that contradict each other": zip_of([("obs.npy", b"x" * 99, 1 << 31, 0)]),
    "20,000 members": lambda: zip_of([(f"{i}.npy", b"", 0, 0) for i in range(20_000)]),
    "an archive cut off": npz()[:-10],
    "an archive cut in half": npz()[: len(npz()) // 2],
    "four bytes of an archive": b"PK\3\4",
    "an HDF5 file that links elsewhere": b"\x89HDF\r\n\x1a\n" + bytes(40) + b"/etc/passwd\0/secret\0" + bytes(400),
    "an HDF5 file of 8 EB": b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0" + b"\xff" * 8 * 20 + bytes(400),
    "nothing": b"",
    "noise": hashlib.sha512(b"noise").digest() * 100,
}
for name, content in ARCHIVES.items():
    write(name, ANY_FILE, content)

case("a pipe that never ends", *ANY_FILE, "model", "checkpoint")(os.mkfifo)
case("a link to a device", *ANY_FILE, "model", "checkpoint")(lambda path: path.symlink_to("/dev/zero"))

# --- configurations of runs --------------------

ALIASES = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]" for i in range(12))
CONFIGS: dict[str, bytes] = {
    "a python object": b"model: !!python/object/apply:os.system ['touch code_was_run']\n",
    "a python name": b"model: !!python/name:os.system\n",
    "a python module": b"model: !!python/module:antigravity\n",
    "an unknown tag": b"model: !evil [1]\n",
    "ten billion laughs": ALIASES.encode(),
    "a value within itself": b"model_settings: &a {b: *a}\n",
    "brackets": b"model: " + b"[" * 30_000,
    "braces": b"{a: " * 10_000,
    "indents": "\n".join(" " * i + "a:" for i in range(300)).encode(),
    "an endless number": b"num_threads: " + b"9" * 60_000,
    "a date that is none": b"model: 2001-99-99\n",
    "binary that is none": b"model: !!binary '%%%'\n",
    "a merge with a number": b"<<: 1\n",
    "a whole number without digits": b"a: !!int ''\n",
    "a truth that is none": b"a: !!bool maybe\n",
    "a time that is none": b"a: !!timestamp now\n",
    "a list as a key": b"? [1]\n: 2\n",
    "no text": b"\xff\xfe\0\0",
    "control characters": b"model: \x00\x1b[2J\n",
    "a list": b"- 1\n",
    "a megabyte": b"a: b\n" * 250_000,
}
for name, content in CONFIGS.items():

    def make_config_file(path: Path, content: bytes = content) -> None:
        path.mkdir()
        (path / "config.yaml").write_bytes(content)

    case(f"config.yaml: {name}", "config")(make_config_file)


@case("config.yaml: settings of any size", "config")
def _(path: Path) -> None:
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump({"model": "tdmpc2:" + "9" * 1000, "nonsense": ["x" * 50_000]}))


# --- logs --------------------

LOGS: dict[str, bytes] = {
    "brackets": (b"[" * 100_000 + b"\n") * 20,
    "a line of 8 MB": b'{"step": "' + b"x" * (8 << 20),
    "numbers that are none": b'{"step": 1e999}\n{"step": NaN}\n{"step": "1"}\n{"step": ' + b"9" * 5000 + b"}\n",
    "no text": bytes(range(256)) * 1000,
    "other values": b'[1]\n"step"\nnull\n{"step": {"a": [1]}}\n',
}
for name, content in LOGS.items():

    def make_log(path: Path, content: bytes = content) -> None:
        path.mkdir()
        (path / "metrics.jsonl").write_bytes(content)

    case(f"metrics.jsonl: {name}", "metrics")(make_log)


@case("metrics.jsonl: 100 GB of nothing", "metrics refused")
def _(path: Path) -> None:
    path.mkdir()
    with (path / "metrics.jsonl").open("wb") as file:
        file.truncate(100 << 30)


@case("metrics.jsonl: a link elsewhere", "log refused")
def _(path: Path) -> None:
    path.mkdir()
    (path / "metrics.jsonl").symlink_to("/etc/hostname")
