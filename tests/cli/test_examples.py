"""The examples run, in the order in which their docstrings tell to run them."""

import pathlib
import runpy

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        runpy.run_path(str(EXAMPLES / "train_cartpole.py"))["main"](1)
    return path


@pytest.mark.parametrize(("name", "words"), [("imagine", "alive"), ("plan", "Planning balanced the pole for")])
def test_example(name, words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
    assert words in capsys.readouterr().out


def test_no_example_is_left_out():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"train_cartpole", "imagine", "plan"}
