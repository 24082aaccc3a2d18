"""Run every `bench_*.py` here and write its results and the tables of README.md.

Each benchmark is a program of its own that prints one JSON object, and nothing after it:
`{"name": ..., "rows": [{column: value, ...}, ...], "environment": {...}}`. It runs on one thread, alone in its
process, so that no benchmark sees what another allocated, imported or warmed up.

    python benchmarks/run.py            # all of them
    python benchmarks/run.py replay     # bench_replay.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def main() -> int:
    """Run what the command line names, or everything; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    available = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(available) or 'none yet'}")
    names = parser.parse_args().names or list(available)
    if unknown := [name for name in names if name not in available]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(available) or 'none yet'}")
    failed = [name for name in names if not run(name, available[name])]
    readme = HERE / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8"), read_results()), encoding="utf-8")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, program: Path) -> bool:
    """Run one benchmark and keep its results; return whether it succeeded."""
    print(f"{name} ...", end=" ", flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, program], env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True)
    print(f"{time.perf_counter() - start:.0f} s")
    if done.returncode != 0:
        return False
    try:
        result = parse(done.stdout)
    except ValueError as error:
        print(f"{program.name}: {error}", file=sys.stderr)
        return False
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{result['name']}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return True


def parse(output: str) -> dict[str, Any]:
    """Return the JSON object that a benchmark's output ends with.

    Raises:
        ValueError: There is none, or it lacks a name, rows or environment.
    """
    lines = output.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("{")), None)
    if start is None:
        raise ValueError("its output has no JSON object")
    result: dict[str, Any] = json.loads("\n".join(lines[start:]))
    if missing := sorted({"name", "rows", "environment"} - result.keys()):
        raise ValueError(f"its JSON object lacks {', '.join(missing)}")
    return result


def read_results() -> list[dict[str, Any]]:
    """Return the latest results of every benchmark, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "results").glob("*.json"))]


def with_tables(readme: str, results: list[dict[str, Any]]) -> str:
    """Return the text with everything between the two markers replaced by the results' tables."""
    before, found_start, rest = readme.partition(START)
    _, found_end, after = rest.partition(END)
    if not found_start or not found_end:
        raise SystemExit(f"README.md must have the lines {START!r} and {END!r}")
    return "\n\n".join([before + START, *map(section, results), END + after])


def section(result: dict[str, Any]) -> str:
    """Return one benchmark's heading, table and environment as Markdown."""
    rows = result["rows"]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    environment = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    return "\n".join([f"### {result['name']}", "", *lines, "", environment])


def cell(value: Any) -> str:
    """Return a value as a table cell: three significant digits are more than a benchmark knows.

    >>> cell(1234.56), cell(0.012345), cell(17), cell(None), cell("a|b")
    ('1,235', '0.0123', '17', '', 'a/b')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
