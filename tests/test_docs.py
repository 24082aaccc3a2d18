"""What the documents show works as it is written, with budgets of a second."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from worldline import create_model, create_random_buffer
from worldline.cli.main import main
from worldline.models.base import num_trained
from worldline.models.dreamerv3 import SIZES, DreamerV3Config

DOCS = Path(__file__).parents[1] / "docs"

# Per document, how many Python blocks it has: a parser that finds fewer has lost some.
PYTHON = {
    "cluster.md": 1,
    "commands.md": 3,
    "data.md": 1,
    "envs.md": 2,
    "formats.md": 1,
    "flowshield.md": 2,
    "imitation.md": 3,
    "models.md": 8,
    "robot.md": 5,
    "shields.md": 2,
    "tdmpc2.md": 3,
    "training.md": 5,
}

SHRINK = [
    (r"total_steps=[\d_]+", "total_steps=2, batch_size=2, sequence_length=8"),
    (r"seed_steps=[\d_]+", "seed_steps=20"),
    # A keyword is given once.
    (r"(sequence_length=8, batch_size=128|batch_size=512, sequence_length=1)", "log_interval=1"),
    (r"n_epochs\": \d+", 'n_epochs": 1'),
    (r"n_episodes=20\b", "n_episodes=1"),
]

# Appended to every `worldline train`: a model of the size of a test.
TINY = [
    part
    for pair in ("deter=16", "hidden=8", "stoch=4", "classes=4", "blocks=4", "units=8", "num_bins=15")
    for part in ("--set", pair)
]
ONLINE = ["--seed-steps", "50", "--eval-episodes", "0", "--batch-size", "2", "--sequence-length", "8"]
COMPARE = ["--set", "tdmpc2.units=8", "--set", "tdmpc2.batch_size=2", "--episodes", "2"]


@pytest.mark.filterwarnings("ignore:Nothing to train")
@pytest.mark.parametrize("name", PYTHON)
def test_python_blocks_run_in_order(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == PYTHON[name]
    namespace: dict[str, object] = {}
    if name == "training.md":  # begins with a model and data at hand
        namespace["model"] = create_model("dreamerv3:size1m", obs_shape=(4,), action_dim=2)
        namespace["buffer"] = create_random_buffer(1000, (4,), 2, num_episodes=10, action_type="discrete")
    if name == "envs.md":  # speaks of actions for eight walkers
        namespace["actions"] = np.zeros((8, 6), dtype=np.float32)
    for code in blocks:
        for pattern, replacement in SHRINK:
            code = re.sub(pattern, replacement, code)
        exec(compile(code, name, "exec"), namespace)
    if name == "cluster.md":  # shows what its calculation prints
        assert f"```text\n{capsys.readouterr().out}```" in text


def test_commands_do_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    commands = console_commands(text)
    assert len(commands) == 18
    for arguments, shown in commands:
        if arguments[0] in ("demo", "view"):  # have tests of their own
            continue
        more = TINY if arguments[0] == "train" else []
        if "--env-steps" in arguments:
            arguments[arguments.index("--env-steps") + 1] = "60"
            more = [*more, *ONLINE]
        if arguments[0] == "compare" and "--resume" not in arguments:
            arguments[arguments.index("--total-steps") + 1] = "2"
            more = [*(part if part == "--set" else f"dreamerv3.{part}" for part in TINY), *COMPARE]
        status = main([*arguments, *more])
        printed = capsys.readouterr()
        assert status == (2 if shown.startswith("error:") else 0), (arguments, printed.err)
        if status == 2 or arguments[0] == "collect":
            assert shown == (printed.err if status == 2 else printed.out), arguments


def console_commands(text: str) -> list[tuple[list[str], str]]:
    """Return the arguments of every `$ worldline` of the text, and what is shown below it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for command, shown in re.findall(
            r"^\$ worldline (.*?(?<!\\))\n(.*?)(?=^\$|\Z)", block, re.DOTALL | re.MULTILINE
        ):
            found.append((shlex.split(command.replace("\\\n", " ")), shown))
    return found


def test_the_page_of_models_names_every_setting_size_and_loss():
    text = (DOCS / "models.md").read_text(encoding="utf-8")
    names = {field.name for field in dataclasses.fields(DreamerV3Config)} - {"obs_shape", "action_dim"}
    model = create_model("dreamerv3:size1m", obs_shape=(4,), action_dim=2)
    names |= model.compute_loss(create_random_buffer(100, (4,), 2, num_episodes=1).sample(2, 4)).keys()
    assert sorted(name for name in names if not re.search(rf"`{name}\b", text)) == []
    for size in SIZES:
        counts = []
        for obs_shape in ((4,), (64, 64, 3)):
            with torch.device("meta"):
                model = create_model(f"dreamerv3:{size}", obs_shape=obs_shape, action_dim=2, device="meta")
            counts.append(f"{num_trained(model):,}")
        row = next(line for line in text.splitlines() if line.startswith(f"| `{size}`"))
        assert [cell.strip() for cell in row.split("|")[-3:-1]] == counts


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^):]+)\)", text):
        file, _, anchor = target.partition("#")
        assert (path.parent / file).exists(), target
        assert file or anchor in anchors, target
