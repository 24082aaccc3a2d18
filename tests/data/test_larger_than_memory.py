"""A data set of 20 GB trains in less than 1.5 GB of memory that is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worldline.data.block import EpisodeBlock
from worldline.data.column_writer import _header, write_columns
from worldline.data.columns import ColumnStore
from worldline.data.rows import RowEncoder
from worldline.episode import Episode

NUM_EPISODES, STEPS, IMAGE = 3300, 500, (64, 64, 3)  # 20.3 GB of images
MAX_ANONYMOUS_MB = 1500

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def make_sparse(path: Path) -> int:
    """Make a folder of columns with holes for numbers, which read as zero; return how many bytes it claims."""
    generator = np.random.default_rng(0)
    obs = {"image": np.zeros((STEPS, *IMAGE), np.uint8), "state": generator.random((STEPS, 4), np.float32)}
    actions, rewards = generator.random((STEPS, 2), np.float32), np.ones(STEPS, np.float32)
    episode = Episode(obs=obs, actions=actions, rewards=rewards, terminated=False, truncated=True)
    shapes = {"image": IMAGE, "state": (4,)}
    write_columns(path, RowEncoder(shapes, 2, None, ()), [EpisodeBlock.of(episode)])
    described = json.loads((path / "manifest.json").read_text())
    rows = NUM_EPISODES * (STEPS + 1)
    described |= {"num_episodes": NUM_EPISODES, "num_steps": NUM_EPISODES * STEPS, "num_rows": rows}
    (path / "manifest.json").write_text(json.dumps(described))
    for name, column in described["columns"].items():
        file = path / f"{name}.npy"
        dtype = np.dtype(column["dtype"])
        header = _header((rows, *column["shape"]), dtype)
        with file.open("r+b") as stream:
            one = stream.read()[len(header) :]
            stream.seek(0)
            stream.write(header)
            if name not in ("obs.image", "obs.state"):
                stream.write(one * NUM_EPISODES)
        os.truncate(file, len(header) + rows * int(np.prod(column["shape"], dtype=np.int64)) * dtype.itemsize)
    index = np.stack([np.arange(NUM_EPISODES) * (STEPS + 1), np.full(NUM_EPISODES, STEPS), np.ones(NUM_EPISODES)], 1)
    content = _header(index.shape, np.dtype(np.int64)) + index.astype(np.int64).tobytes()
    (path / "episodes.npy").write_bytes(content)
    ColumnStore(path)  # it is a valid one
    return sum(file.stat().st_size for file in path.iterdir())


PROGRAM = """
import re, sys, threading, time
from pathlib import Path
from worldline.cli.main import main

peak = 0

def watch():
    global peak
    while True:
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
status = main(sys.argv[1:])
print("peak", peak // 1024)
sys.exit(status)
"""


@pytest.mark.slow
def test_twenty_gigabytes_train_in_little_memory(tmp_path: Path) -> None:
    assert make_sparse(tmp_path / "data") > 20e9
    command = [sys.executable, "-c", PROGRAM, "train", "dreamerv3:size1m", "--data", str(tmp_path / "data")]
    command += ["--out", str(tmp_path / "run"), "--total-steps", "20", "--batch-size", "16", "--sequence-length", "16"]
    command += ["--set", "units=8", "--set", "hidden=8", "--set", "deter=8", "--set", "depth=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is mapped from the disk" in done.stderr
    peak = int(done.stdout.split()[-1])
    print(f"peak of anonymous memory: {peak} MB")
    assert peak < MAX_ANONYMOUS_MB
