"""What importing costs, as whole processes: `import worldline` against `import torch`.

`import worldline` alone does not import torch; the rows that use something of it do. The processes take turns, the
median of each counts, and the time of a Python that does nothing is part of all of them. Prints one JSON object;
`ratio` is to `import torch`.

    python benchmarks/bench_import.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

ROUNDS = 9
LIMIT = 1.1
REFERENCE = "import torch"
CASES = {
    "python alone": "pass",
    REFERENCE: "import torch",
    "import worldline": "import worldline",
    "what training needs": "from worldline import ReplayBuffer, Trainer, TrainingConfig, create_model",
    "import worldflux.training": "from worldflux.training import ReplayBuffer, Trainer, TrainingConfig, train",
}
LIMITED = ("import worldline", "what training needs")


def main() -> None:
    """Time every case and print the JSON object."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for round_number in range(ROUNDS + 1):
        for name, code in CASES.items():
            seconds = timed(code)
            if round_number > 0:  # the first one fills the caches of the file system and of bytecode
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows: list[dict[str, Any]] = []
    for name, seconds in medians.items():
        row: dict[str, Any] = {
            "case": name,
            "us": round(seconds * 1e6),
            "ratio": round(seconds / medians[REFERENCE], 3),
        }
        if name in LIMITED:
            row["limit"] = LIMIT
        if name != "python alone":
            row["loads_torch"] = loads_torch(CASES[name])
        rows.append(row)
    environment = {"python": platform.python_version(), "torch": version("torch"), "machine": platform.machine()}
    print(json.dumps({"name": "import", "rows": rows, "environment": environment}))


def timed(code: str) -> float:
    """Return the seconds that a Python process takes to run `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - started


def loads_torch(code: str) -> bool:
    """Return whether `code` imports torch."""
    check = f"import sys; {code}; sys.exit(7 if 'torch' in sys.modules else 0)"
    return subprocess.run([sys.executable, "-c", check], check=False).returncode == 7


if __name__ == "__main__":
    main()
