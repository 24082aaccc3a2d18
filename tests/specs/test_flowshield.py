"""Run every block of FlowShield's document, the YAML included, and compare every signature that it shows.

Like the other documents, it is looked for in `../shared/specs`, or where `WORLDLINE_SPECS` says.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowshield.training
from specs.test_documents import SPECS
from worldline import load_model

DOCUMENT = SPECS / "flowshield-training-module.rst"
EXAMPLE = Path(__file__).parents[2] / "examples" / "flowshield" / "configs" / "train.yaml"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason=f"the document is not at {DOCUMENT}")

# What would take hours.
SHRINK = [(r"n_episodes=10000\b", "n_episodes=150"), (r"n_epochs: 200\b", "n_epochs: 1")]
# Its blocks follow the order of a reference, not that of a program: a configuration comes first, then data.
ORDER = [3, 2, 1, 0]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield (language, code) of every block."""
    for match in re.finditer(r"^( *)\.\. code-block:: (\w+)\n((?:\1   .*\n| *\n)+)", text, re.MULTILINE):
        yield match[2], textwrap.dedent(match[3]).strip("\n") + "\n"


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("omegaconf")
    monkeypatch.chdir(tmp_path)
    found = list(blocks(DOCUMENT.read_text(encoding="utf-8")))
    assert [language for language, _ in found] == ["python", "python", "python", "yaml"]
    namespace: dict[str, Any] = {}
    for index in ORDER:
        language, code = found[index]
        for pattern, replacement in SHRINK:
            code = re.sub(pattern, replacement, code)
        if language == "yaml":
            (tmp_path / "configs").mkdir()
            (tmp_path / "configs" / "train.yaml").write_text(code)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="device is 'cuda', but there is no CUDA here")
                exec(compile(code, str(DOCUMENT), "exec"), namespace)
    dataset, agent, shield = (namespace[name] for name in ("dataset", "agent", "shield"))
    assert f"Loaded {len(dataset)} transitions" in capsys.readouterr().out
    assert [tuple(namespace[name].shape) for name in ("states", "actions", "commands")] == [
        (256, 8),
        (256, 2),
        (256, 2),
    ]
    assert load_model(tmp_path / "logs" / "udrl" / "final").config == agent.config
    assert (agent.config.units, agent.config.layers) == (256, 4)
    assert namespace["trainer"].config.seed == 42
    flagged = shield.is_ood(namespace["states"], namespace["commands"])
    assert flagged.float().mean() < 0.3


def test_the_example_has_the_document_s_configuration():
    (yaml,) = (code for language, code in blocks(DOCUMENT.read_text(encoding="utf-8")) if language == "yaml")
    assert [line.rstrip() for line in yaml.splitlines()] == EXAMPLE.read_text().splitlines()


def documented() -> list[tuple[str, str]]:
    """Return (qualified name, signature) of everything that the document describes."""
    if not DOCUMENT.is_file():
        return []
    found, owner = [], ""
    for kind, rest in re.findall(
        r"^ *\.\. (class|function|method|attribute):: (.+)$", DOCUMENT.read_text(), re.MULTILINE
    ):
        name, _, signature = rest.partition("(")
        if kind == "class":
            owner = name.strip()
        qualified = f"{owner}.{name.strip()}" if kind in ("method", "attribute") else name.strip()
        found.append((qualified, f"({signature}" if signature else ""))
    return found


@pytest.mark.parametrize(("name", "signature"), documented(), ids=[name for name, _ in documented()])
def test_everything_that_is_described_is_there(name: str, signature: str):
    owner, _, member = name.partition(".")
    found: Any = getattr(flowshield.training, owner)
    if member and signature:
        found = getattr(found, member)
    elif member:
        assert isinstance(getattr(found, member), property)
        return
    if signature:
        assert_called_alike(found, signature)


def assert_called_alike(function: Callable[..., Any], signature: str) -> None:
    """Check that what may be written by the documented signature is taken, with the documented defaults."""
    (definition,) = ast.parse(f"def function{signature}: ...").body
    assert isinstance(definition, ast.FunctionDef)
    wanted = [argument.arg for argument in definition.args.args]
    ours = [item for item in inspect.signature(function).parameters.values() if item.name != "self"]
    assert [item.name for item in ours if item.kind is item.POSITIONAL_OR_KEYWORD][: len(wanted)] == wanted
    if definition.args.kwarg:
        assert any(item.kind is item.VAR_KEYWORD for item in ours)
    defaults = [ast.literal_eval(value) for value in definition.args.defaults]
    for name, default in zip(wanted[len(wanted) - len(defaults) :], defaults, strict=True):
        if name != "n_epochs":  # those of the configuration, or else the documented ones: see `Trainer`
            assert inspect.signature(function).parameters[name].default == default
