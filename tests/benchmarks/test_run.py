from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The runner, with a folder of its own to run and write in."""
    source = Path(__file__).parents[2] / "benchmarks"
    spec = importlib.util.spec_from_file_location("benchmark_runner", source / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    (tmp_path / "README.md").write_text(f"Before.\n\n{module.START}\nold\n{module.END}\n\nAfter.\n")
    return module


def program(folder: Path, name: str, code: str) -> None:
    (folder / f"bench_{name}.py").write_text(code)


def test_results_and_tables(runner: ModuleType, tmp_path: Path):
    result = {
        "name": "replay",
        "rows": [{"what": "ours", "us": 20.04}, {"us": 22.0, "ratio": 1.1}],
        "environment": {"torch": "2"},
    }
    program(
        tmp_path,
        "replay",
        f"import os, json\nassert os.environ['OMP_NUM_THREADS'] == '1'\nprint('note')\nprint({json.dumps(result)!r})",
    )
    assert runner.main() == 0
    assert json.loads((tmp_path / "results" / "replay.json").read_text()) == result
    assert (tmp_path / "README.md").read_text() == (
        f"Before.\n\n{runner.START}\n\n### replay\n\n"
        "| what | us | ratio |\n| --- | --- | --- |\n| ours | 20 |  |\n|  | 22 | 1.1 |\n\ntorch 2\n\n"
        f"{runner.END}\n\nAfter.\n"
    )
    assert runner.main() == 0  # again: the tables replace themselves
    assert (tmp_path / "README.md").read_text().count("### replay") == 1


@pytest.mark.parametrize(
    "code", ["raise SystemExit(3)", "", "print('no json')", "print('{}')", "print('[1]')", "print('{')"]
)
def test_a_failed_benchmark_is_named_and_the_others_run(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str
):
    program(tmp_path, "a", code)
    program(tmp_path, "b", """print('{"name": "b", "rows": [{"x": 1}], "environment": {}}')""")
    assert runner.main() == 1
    assert "failed: a\n" in capsys.readouterr().err
    assert "### b" in (tmp_path / "README.md").read_text()


def test_the_object_may_take_many_lines(runner: ModuleType):
    result = {"name": "a", "rows": [], "environment": {"torch": "2"}}
    assert runner.parse("a note\n" + json.dumps(result, indent=2) + "\n") == result


def test_names_choose(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program(tmp_path, "a", "raise SystemExit(3)")
    program(tmp_path, "b", """print('{"name": "b", "rows": [], "environment": {}}')""")
    monkeypatch.setattr(sys, "argv", ["run.py", "b"])
    assert runner.main() == 0
    monkeypatch.setattr(sys, "argv", ["run.py", "c"])
    with pytest.raises(SystemExit):
        runner.main()


def test_markers_must_be_there(runner: ModuleType):
    with pytest.raises(SystemExit, match="must have the lines"):
        runner.with_tables("no markers", [])


def test_cells(runner: ModuleType):
    assert [runner.cell(value) for value in (1234.56, 0.012345, 17, None, "a|b")] == [
        "1,235",
        "0.0123",
        "17",
        "",
        "a/b",
    ]
