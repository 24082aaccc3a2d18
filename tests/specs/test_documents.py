"""Run every Python block of the documents of WorldFlux, WorldLoom and SimScaleAI, in order, as a reader would.

The documents are not part of this repository: they are looked for in `../shared/specs`, or where `WORLDLINE_SPECS`
says.
The code runs as it is but for what would take hours or a GPU: `SHRINK` lists every substitution.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SPECS = Path(os.environ.get("WORLDLINE_SPECS", Path(__file__).parents[3] / "shared" / "specs"))

pytestmark = pytest.mark.skipif(not SPECS.is_dir(), reason=f"the documents are not at {SPECS}; set WORLDLINE_SPECS")

SHRINK = [
    (r"total_steps=[\d_]+", "total_steps=2"),
    (r"\bbatch_size=16\b", "batch_size=2"),
    (r"\bsequence_length=50\b", "sequence_length=8"),
    (r"\bseq_len=50\b", "seq_len=8"),
    (r"size12m", "size1m"),
    (r"cuda", "cpu"),
    # SimScaleAI's: a checkpoint that a block goes on from is written by the one before.
    (r"TrainConfig\(max_steps=5000,", "TrainConfig(max_steps=4, save_every=2,"),
    (r"max_steps=\d\d[\d_]+", "max_steps=4"),
    (r"step_5000", "step_2"),
    (r"TrainConfig\(resume_from", "TrainConfig(max_steps=6, resume_from"),
    (r"(save|eval)_every=\d+_000", r"\1_every=2"),
    (r"n_episodes=10\b", "n_episodes=2"),
    (r"num_workers=4", "num_workers=1"),
    # The blocks before these lines say what an episode looks like and leave out the numbers.
    (r"(obs|actions|rewards|dones)=np\.array\(\[\.\.\.\]\)", r"\1=EPISODE['\1']"),
]

# Per document, how many blocks it has: a parser that finds fewer has lost some.
DOCUMENTS = {
    "worldflux-training-api-2026-02-05.md": 18,
    "worldflux-training-api-later.txt": 18,
    "worldloom-train-your-first-model.md": 9,
    "simscaleai-training.md": 12,
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    namespace = prepare_robot(tmp_path) if name in CHECKS else prepare(tmp_path)
    found = list(blocks((SPECS / name).read_text(encoding="utf-8"), fenced=name.endswith(".md")))
    assert len(found) == DOCUMENTS[name]
    for line, code in found:
        for pattern, replacement in SHRINK:
            code = re.sub(pattern, replacement, code)
        # Line numbers of the document, so that a failure points there.
        compiled = compile("\n" * (line - 1) + code, str(SPECS / name), "exec")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compiled, namespace)
    CHECKS.get(name, check)(name, namespace, tmp_path)


def prepare(folder: Path) -> dict[str, Any]:
    """Write the files that the documents take for granted, and return the variables."""
    rng = np.random.default_rng(0)
    num_rows = 200
    ends = np.arange(1, num_rows + 1) % 50 == 0
    rows = {
        "obs": rng.normal(size=(num_rows, 4)).astype(np.float32),
        "actions": np.eye(2, dtype=np.float32)[rng.integers(0, 2, num_rows)],
        "rewards": rng.normal(size=num_rows).astype(np.float32),
    }
    schema = {"obs_shape": np.array([4]), "action_dim": np.array(2)}
    np.savez(folder / "data.npz", **rows, dones=ends.astype(np.float32), **schema)
    np.savez(folder / "trajectories.npz", **rows, terminations=ends, **schema, capacity=np.array(1000))
    episode = {name: column[:50] for name, column in (rows | {"dones": ends}).items()}
    return {"__name__": "__main__", "np": np, "EPISODE": episode, "terminations": ends, **rows}


def check(name: str, namespace: dict[str, Any], folder: Path) -> None:
    """Check what the documents promise at their ends."""
    from worldline import load_model

    saved = folder / ("my_trained_model" if "worldloom" in name else "final_model")
    assert load_model(saved).config == namespace["model"].config
    if "worldloom" in name:
        assert namespace["trajectory"].rewards.shape == (15, 4)
        assert namespace["loaded_model"].config == namespace["model"].config
    else:
        assert namespace["buffer"].num_transitions == 200
        assert namespace["trained_model"] is namespace["model"]


def prepare_robot(folder: Path) -> dict[str, Any]:
    """Record what SimScaleAI's document takes for granted, and return the names that it leaves to the reader."""
    from torch.utils.data import DataLoader

    from simscaleai.sim.demonstrations import record, write
    from simscaleai.training.data.dataset import DummyTrajectoryDataset

    write(folder / "data" / "reach.h5", record("reach", num_episodes=5, action_noise=0.5))
    train_loader = DataLoader(DummyTrajectoryDataset(num_samples=100), batch_size=32)
    return {"__name__": "__main__", "train_loader": train_loader, "my_custom_eval": lambda model: {"score": 1.0}}


def check_robot(name: str, namespace: dict[str, Any], folder: Path) -> None:
    """Check what SimScaleAI's document promises at its end."""
    import torch

    metrics, sample = namespace["metrics"], namespace["sample"]
    assert metrics["global_step"] == 4
    assert np.isfinite(metrics["final_loss"])
    assert {"eval/loss", "eval/success_rate", "best_eval_loss"} <= metrics.keys()
    assert sample["observations"]["joint_pos"].shape == (10, 7)
    assert sample["actions"].shape == (10, 4)
    saved = torch.load(folder / "checkpoints" / "final.pt", weights_only=True)
    assert tuple(saved) == tuple(namespace["checkpoint"])
    kept = folder / "checkpoints" / "superseded_001"  # of the block before: it went on from step 2 to 6
    assert torch.load(kept / "final.pt", weights_only=True)["step"] in (4, 6)


CHECKS = {"simscaleai-training.md": check_robot}


def blocks(text: str, *, fenced: bool) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, code) for every Python block."""
    if fenced:
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            yield text.count("\n", 0, match.start(1)) + 1, match[1]
    else:
        yield from unfenced_blocks(text.splitlines())


def unfenced_blocks(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the blocks of a page whose markup was lost: paragraphs of code, those that follow each other as one."""
    block: tuple[int, int] | None = None
    position = 0
    while position < len(lines):
        end = code_end(lines, position)
        if end > position:
            block = (block[0] if block else position, end)
        elif lines[position].strip() and block:
            yield block[0] + 1, "\n".join(lines[slice(*block)]) + "\n"
            block = None
        position = max(position + 1, end)
    if block:
        yield block[0] + 1, "\n".join(lines[slice(*block)]) + "\n"


def code_end(lines: list[str], start: int) -> int:
    """Return where the shortest run of whole paragraphs from `start` that is code ends; `start` if there is none."""
    looks_like_code = re.match(r"(from \w|import \w|class \w+\(|for \w|#|[a-z_][\w.]*( = |\())", lines[start])
    if not looks_like_code or (start > 0 and lines[start - 1].strip()):
        return start
    for end in range(start + 1, len(lines) + 1):
        if end < len(lines) and lines[end].strip():
            continue
        try:
            ast.parse("\n".join(lines[start:end]))
        except SyntaxError:
            continue
        return end
    return start


def test_blocks_without_fences():
    page = """Title

    train

    Use it.

    from a import b

    config = b(
        # Duration
        total=1,

        # Rest
        rest=2,
    )

    train(x) is not code here, says the prose.

    # note
    class C(b):
        pass

    Name Type
    obs [N]
    """
    lines = [line.removeprefix("    ") for line in page.splitlines()]
    found = list(unfenced_blocks(lines))
    assert [line for line, _ in found] == [7, 19]
    assert found[0][1].startswith("from a import b\n")
    assert found[0][1].endswith("rest=2,\n)\n")
    assert found[1][1] == "# note\nclass C(b):\n    pass\n"


def shell_lines() -> list[list[str]]:
    """Return the commands of SimScaleAI's document."""
    text = (SPECS / "simscaleai-training.md").read_text(encoding="utf-8")
    found = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [shlex.split(block.replace("\\\n", " ")) for block in found]


def test_the_line_that_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from simscaleai.tools.cli import main

    monkeypatch.chdir(tmp_path)
    prepare_robot(tmp_path)
    program, *arguments = shell_lines()[1]
    assert program == "simscale"
    few = ["--max-steps", "4", "--save-every", "2", "--num-workers", "0"]
    assert main([*arguments[: arguments.index("--resume")], *few]) == 0
    (tmp_path / "checkpoints" / "step_2.pt").rename(tmp_path / "checkpoints" / "step_5000.pt")
    assert main([*arguments, *few]) == 0
    assert re.search(r"global_step +4", capsys.readouterr().out)


@pytest.mark.slow
def test_the_line_of_torchrun(tmp_path: Path):
    program, *arguments = shell_lines()[0]
    assert program == "torchrun"
    shrunk = [re.sub(r"=4$", "=2", argument) for argument in arguments]
    for option, value in (("--max-steps", "3"), ("--batch-size", "4")):
        shrunk[shrunk.index(option) + 1] = value
    tiny = ["--set", "image_size=16", "--set", "hidden_dim=16", "--set", "n_layers=1", "--num-workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *shrunk, *tiny],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src"), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"global_step +3", done.stdout)) == 1  # one model, of which one process tells
    assert (tmp_path / "checkpoints" / "final.pt").is_file()
