from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def check_sizes() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "check_sizes.py"
    spec = importlib.util.spec_from_file_location("check_sizes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function(name: str, num_lines: int) -> str:
    return f"def {name}():\n" + "    x = 1\n" * (num_lines - 1)


def test_what_fits_passes(check_sizes: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.py").write_text(function("f", 60))
    assert check_sizes.main(tmp_path) == 0
    assert capsys.readouterr().out == ""


def test_long_files_functions_and_wide_classes(
    check_sizes: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "long.py").write_text("x = 1\n" * 401)
    (tmp_path / "function.py").write_text(
        "class A:\n" + "".join(f"    {line}\n" for line in function("f", 61).split("\n"))
    )
    methods = "".join(f"    def m{i}(self): ...\n" for i in range(16))
    (tmp_path / "wide.py").write_text("class B:\n" + methods + "    def _private(self): ...\n")
    assert check_sizes.main(tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "function.py:A.f: 61 lines; aim for 60",
        "long.py: 401 lines; aim for 400",
        "wide.py:B: 16 public methods; aim for 15",
    ]


def test_docstrings_do_not_count(check_sizes: ModuleType, tmp_path: Path):
    docstring = '    """Say it.\n' + "    at length\n" * 50 + '    """\n'
    (tmp_path / "a.py").write_text("def f():\n" + docstring + "    x = 1\n" * 59)
    assert check_sizes.main(tmp_path) == 0


def test_what_is_allowed_passes_until_it_is_stale(
    check_sizes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(check_sizes, "ALLOWED", {"long.py": "one table"})
    (tmp_path / "long.py").write_text("x = 1\n" * 401)
    assert check_sizes.main(tmp_path) == 0
    (tmp_path / "long.py").write_text("x = 1\n")
    assert check_sizes.main(tmp_path) == 1
    assert "it is not any more" in capsys.readouterr().out
