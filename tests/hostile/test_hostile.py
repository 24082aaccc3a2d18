"""Whatever a file holds, reading it runs no code, opens no connection, writes nothing, takes little, and is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numcodecs import blosc

from hostile.array_files import columns, hdf5, lerobot, zarr
from hostile.corpus import (
    CASES,
    MARKER,
    make_all,
    npz,
    official,
    valid_checkpoint,
    valid_flowshield,
    valid_model,
    valid_online,
    valid_trajectories,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures as Linux does")

GIVEN = [(name, reader) for name, (readers, _) in CASES.items() for reader in readers]
MAX_MEGABYTES = 64
MAX_SECONDS = 1.0
WHAT_TO_DO = re.compile(
    r"\b(Restore|Resume|Save|Write|Give|Build|Load|Install|Use|Choose|Correct|Leave|Begin|Move|Delete|Keep|See|Start|"
    r"Update|Known|Expected|expected|Every column|Check|load it)\b"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """What happened to every file in every reader; one process reads them all, each in a fork."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "run_in").mkdir()
    made = make_all(root)
    hostile = [(name, reader, str(path)) for name, (readers, path) in made.items() for reader in readers]
    good = root / "good"
    good.mkdir()
    (good / "replay.npz").write_bytes(npz())
    (good / "official.pt").write_bytes(official())
    valid_checkpoint(good / "checkpoints")
    valid_model(good / "model")
    valid_online(good / "online")
    (good / "metrics.jsonl").write_text('{"step": 1}\n')
    (good / "data.h5").write_bytes(hdf5())
    zarr(good / "data.zarr")
    zarr(good / "blosc.zarr", compressor={"id": "blosc"}, chunk=blosc.compress(bytes(72), b"lz4", 5))
    columns(good / "columns")
    lerobot(good / "lerobot")
    benign = [
        ("buffer", "data.h5"),
        ("buffer", "data.zarr"),
        ("buffer", "blosc.zarr"),
        ("buffer", "lerobot"),
        ("dataset", "columns"),
        ("buffer", "replay.npz"),
        ("official", "official.pt"),
        ("checkpoint", "checkpoints"),
        ("resume", "checkpoints"),
        ("model", "model"),
        ("online", "online"),
        ("metrics", "."),
        ("trajectories", "replay.npz"),
        ("trajectories", "trajectories.pkl"),
        ("flowshield checkpoint", "flowshield.pt"),
    ]
    valid_trajectories(good / "trajectories.pkl")
    valid_flowshield(good / "flowshield.pt")
    listed = {"hostile": hostile, "benign": [(reader, str(good / path)) for reader, path in benign]}
    (root / "list.json").write_text(json.dumps(listed))
    command = [
        sys.executable,
        str(Path(__file__).with_name("readers.py")),
        str(root / "list.json"),
        str(root / "run_in"),
    ]
    tests = str(Path(__file__).parent.parent)
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(root.rglob(MARKER))
    return {(found["case"], found["reader"]): found for found in json.loads(done.stdout.splitlines()[-1])}


def test_there_are_enough() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(("name", "reader"), GIVEN, ids=[f"{reader}: {name}" for name, reader in GIVEN])
def test_a_hostile_file(results: dict[tuple[str, str], dict[str, Any]], name: str, reader: str) -> None:
    found = results[name, reader]
    assert found["seen"] == []
    if reader == "metrics":  # passes over what is no line
        assert found["kind"] is None
    else:
        assert found["kind"] == "refused", found["error"]
        assert WHAT_TO_DO.search(found["error"]), found["error"]
        assert len(found["error"]) < 2000
    assert found["megabytes"] < MAX_MEGABYTES
    assert found["seconds"] < MAX_SECONDS
