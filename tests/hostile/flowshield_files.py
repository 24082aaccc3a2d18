"""Hostile files for FlowShield's readers: pickles and flat arrays of trajectories, and checkpoints."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flowshield.models import UDRLAgent
from flowshield.training import save_checkpoint
from hostile.making import Payload, bomb, npy_header, npz, objects, saved, write

# --- pickles of trajectories --------------------

DTYPE = b"cnumpy\ndtype\nX\2\0\0\0f8K\0K\1\x87R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"


def array_of(shape: bytes) -> bytes:
    """Return a pickle of an array of one float that claims this shape."""
    return b"\x80\3" + ARRAY + b"(K\1" + shape + DTYPE + b"\x89C\x08" + bytes(8) + b"tb."


TRAJECTORIES: dict[str, bytes | Callable[[], bytes]] = {
    "a payload among trajectories": lambda: pickle.dumps([{"states": np.zeros((2, 3)), "actions": Payload()}]),
    "objects among trajectories": lambda: pickle.dumps([{"states": objects(Payload())}]),
    "a trajectory of a class": lambda: pickle.dumps([Payload]),
    "a function of NumPy": b"\x80\4\x8c\5numpy\x8c\4load\x93\x8c\1x\x85R.",
    "a name with dots": b"\x80\4\x8c\2os\x8c\x0bpath.system\x93.",
    "a loader of modules": b"\x80\2cimportlib\nimport_module\nX\2\0\0\0os\x85R.",
    "an array of 8 EB": array_of(b"\x8a\x08\0\0\0\0\0\0\0\x10\x85"),
    "an array of a negative size": array_of(b"J\xff\xff\xff\xff\x85"),
    "an array without numbers": b"\x80\3]q\0" + ARRAY + b"a.",
    "an array of 100 axes": array_of(b"(" + b"K\1" * 100 + b"t"),
    "bytes of 8 EB": b"\x80\4\x8e" + struct.pack("<Q", 1 << 63) + b"x.",
    "a bytearray of 4 GB at once": b"\x80\5\x96" + struct.pack("<Q", 4 << 30) + b".",
    "text of 4 GB at once": b"\x80\3X" + struct.pack("<I", (1 << 32) - 1) + b"x.",
    "a number of 255 bytes": b"\x80\2\x8a\xff" + b"\xff" * 255 + b".",
    "the last place of the memo": b"\x80\2]r\xff\xff\xff\xffh\0.",
    "a megabyte of dicts": b"\x80\2" + b"}" * (1 << 20) + b".",
    "a megabyte of the memo": b"\x80\4]" + b"\x94" * (1 << 20) + b".",
    "a megabyte of marks": b"\x80\2" + b"(" * (1 << 20) + b".",
    "lists within lists": b"\x80\2" + b"]" * 10_000 + b"a" * 9_999 + b".",
    "ten billion laughs of lists": b"\x80\2]q\0" + b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(12)
    ) + b".",
    "a list within itself": b"\x80\2]q\0h\0a.",
    "a dict within itself": b"\x80\2}q\0X\1\0\0\0ah\0s.",
    "keys that are lists": b"\x80\2}]K\1s.",
    "a stack that is empty": b"\x80\2R.",
    "a mark that is not there": b"\x80\2t.",
    "a memo that is empty": b"\x80\2h\7.",
    "a persistent object": b"\x80\2X\1\0\0\0xQ.",
    "buffers from elsewhere": b"\x80\5\x97.",
    "no end": b"\x80\4]",
}  # fmt: skip
for name, content in TRAJECTORIES.items():
    write(name, ("trajectories", "pickle"), content)


def states_npz(**changes: Any) -> bytes:
    """Return an archive in the layout of flat arrays, `states` and so on."""
    arrays = {"states": np.zeros((6, 3), np.float32), "dones": np.ones(6, bool), **changes}
    return npz(obs=None, obs_shape=None, action_dim=None, **arrays)


STATES: dict[str, Callable[[], bytes]] = {
    "objects as states": lambda: states_npz(states=objects(Payload())),
    "states of 2 GB that are not there": lambda: states_npz(states=npy_header("'<f4'", (1 << 29, 3)) + bytes(72)),
    "states beyond counting": lambda: states_npz(states=npy_header("'<f8'", (1 << 62, 1 << 62)) + bytes(72)),
    "flat arrays without rewards": lambda: states_npz(rewards=None),
    "as many choices as atoms": lambda: states_npz(actions=np.full(6, (1 << 62) + 1)),
    "states that are text": lambda: states_npz(states=npy_header("'<U1000000000'", (6,))),
    "2 GB of states in 2 MB": lambda: bomb("states.npy", npy_header("'<f4'", (1 << 29,)), 2047, (2 << 30) - 1),
}
for name, content in STATES.items():
    write(name, ("trajectories",), content)

write("a pickle as a checkpoint", ("flowshield checkpoint",), lambda: pickle.dumps({"agent": Payload()}))
write("a .pt as a checkpoint", ("flowshield checkpoint",), lambda: saved({"agent": Payload()}))
write("a header of 8 EB as a checkpoint", ("flowshield checkpoint",), struct.pack("<Q", 1 << 63) + b"{}")


def valid_trajectories(path: Path) -> None:
    """Write a pickle that is read."""
    one = {"states": np.zeros((2, 3)), "actions": np.zeros((2, 2)), "rewards": np.zeros(2), "dones": [False, True]}
    path.write_bytes(pickle.dumps([one]))


def valid_flowshield(path: Path) -> None:
    """Write a checkpoint that is read."""
    save_checkpoint(path, UDRLAgent(3, 2, hidden_dim=4, n_layers=1), None, None, 0)
