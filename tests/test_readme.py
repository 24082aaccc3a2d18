"""The README's Python is run, in order, with budgets of a second; its tree is what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SHRINK = [
    (r"total_steps=[\d_]+", "total_steps=2, batch_size=2, sequence_length=8"),
    (r"max_steps=[\d_]+", "max_steps=2"),
    (r"num_episodes=500", "num_episodes=20"),
    (r"n_epochs\": \d+", 'n_epochs": 1'),
    (r"n_episodes=200", "n_episodes=10"),
    (r"num_episodes=20\)\.mean", "num_episodes=2).mean"),
]


def test_the_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    namespace: dict[str, object] = {}
    for code in blocks:
        for pattern, replacement in SHRINK:
            code = re.sub(pattern, replacement, code)
        exec(compile(code, "README.md", "exec"), namespace)
    assert "torch.Size([15, 4]) torch.Size([15, 4, 4])" in capsys.readouterr().out
    assert (tmp_path / "runs" / "my_model" / "config.json").is_file()
    assert namespace["buffer"].num_transitions == 100 * 100
    assert namespace["metrics"]["global_step"] == 2


def test_the_tree_is_current():
    done = subprocess.run([sys.executable, ROOT / "tools" / "write_tree.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
