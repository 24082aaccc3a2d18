"""The seven keys, as torch's own classes have them; exact resume; files that are not what they should be."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import simscale_runs
from simscale_runs import Linear, make_config, make_trainer, train, weights_of
from simscaleai.training.adapter import Adapter
from simscaleai.training.checkpoint import KEYS, list_checkpoints, read_checkpoint, step_of
from simscaleai.training.config import TrainConfig
from training.rank_pool import RankPool
from worldline.errors import DataError, FileError


def same_weights(first: Path, second: Path) -> bool:
    one, other = weights_of(first), weights_of(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_files_and_their_keys(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    result = trainer.train()
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["final.pt", "step_10.pt", "step_5.pt"]
    found = torch.load(tmp_path / "final.pt", weights_only=True)
    assert tuple(found) == KEYS
    assert found["step"] == 12
    assert found["config"] == TrainConfig(**found["config"]).__dict__ == trainer.config.__dict__
    assert found["best_eval_loss"] == result["best_eval_loss"]
    assert found["scheduler_state_dict"]["last_epoch"] == 12
    assert found["scaler_state_dict"] == {}
    assert not any(tensor.requires_grad for tensor in found["model_state_dict"].values())
    sizes = {name: tensor.untyped_storage().nbytes() for name, tensor in found["model_state_dict"].items()}
    assert sizes["net.0.weight"] == 3 * 8 * 4  # of its own, not the trainer's flat buffer


def test_torchs_own_classes_take_what_is_in_them(tmp_path: Path):
    with pytest.warns(UserWarning, match="float16"):
        make_trainer(tmp_path, use_amp=True, amp_dtype="float16").train()
    found = torch.load(tmp_path / "final.pt", weights_only=True)
    model = Linear()
    model.load_state_dict(found["model_state_dict"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(found["optimizer_state_dict"])
    assert optimizer.param_groups[0]["weight_decay"] == 1e-5
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(found["scaler_state_dict"])
    num_skipped = 16 - round(math.log2(scaler.get_scale()))  # the first scale may be too large
    assert num_skipped in (0, 1)
    assert [float(state["step"]) for state in optimizer.state.values()] == [12.0 - num_skipped] * 4


@pytest.mark.parametrize("name", ["step_5.pt", "step_10.pt"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, name: str):
    whole = make_trainer(tmp_path / "whole", noise=0.1, dropout=0.3).train()
    resumed = make_trainer(
        tmp_path / "again", noise=0.1, dropout=0.3, resume_from=str(tmp_path / "whole" / name)
    ).train()
    assert same_weights(tmp_path / "whole" / "final.pt", tmp_path / "again" / "final.pt")
    timing = {"samples_per_second", "train_seconds"}
    assert {key: value for key, value in resumed.items() if key not in timing} == {
        key: value for key, value in whole.items() if key not in timing
    }


def test_a_resumed_run_of_one_that_has_ended(tmp_path: Path):
    first = make_trainer(tmp_path).train()
    with pytest.warns(UserWarning, match="Nothing to train"):
        again = make_trainer(tmp_path, resume_from=str(tmp_path / "final.pt")).train()
    assert again["final_loss"] == first["final_loss"]
    assert again["best_eval_loss"] == first["best_eval_loss"]


def test_float16_resumes_with_its_scale(tmp_path: Path):
    settings: dict[str, Any] = {"use_amp": True, "amp_dtype": "float16"}
    for run, resume_from in (("a", None), ("b", str(tmp_path / "a" / "step_5.pt"))):
        with pytest.warns(UserWarning, match="float16"):
            make_trainer(tmp_path / run, **settings, resume_from=resume_from).train()
    ends = [torch.load(tmp_path / run / "final.pt", weights_only=True)["scaler_state_dict"] for run in "ab"]
    assert ends[0] == ends[1]
    assert ends[0]["_growth_tracker"] > 7


def test_a_new_run_puts_the_files_of_an_old_one_away(tmp_path: Path):
    make_trainer(tmp_path).train()
    old = weights_of(tmp_path / "final.pt")
    with pytest.warns(UserWarning, match="held 3 checkpoints that are not of this run"):
        make_trainer(tmp_path, seed=3).train()
    kept = weights_of(tmp_path / "superseded_001" / "final.pt")
    assert all(torch.equal(old[name], kept[name]) for name in old)


def test_a_resumed_run_puts_away_what_is_beyond_it(tmp_path: Path):
    make_trainer(tmp_path, max_steps=12).train()
    with pytest.warns(UserWarning, match="held 2 checkpoints"):
        make_trainer(tmp_path, resume_from=str(tmp_path / "step_5.pt")).train()
    assert sorted(path.name for path in (tmp_path / "superseded_001").iterdir()) == ["final.pt", "step_10.pt"]
    assert same_weights(tmp_path / "final.pt", tmp_path / "superseded_001" / "final.pt")


def test_a_folder_means_its_newest_whole_file(tmp_path: Path):
    make_trainer(tmp_path).train()
    (tmp_path / "step_10.pt").write_bytes((tmp_path / "step_10.pt").read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"Skipping a damaged checkpoint.*step_10"):
        found = read_checkpoint(tmp_path, Adapter(Linear()))
    assert found.step == 5
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_5.pt", "step_10.pt"]
    with pytest.raises(FileError, match="No whole checkpoint"):
        read_checkpoint(tmp_path / "logs", Adapter(Linear()))


def test_other_settings_are_told(tmp_path: Path):
    make_trainer(tmp_path).train()
    with pytest.warns(UserWarning, match="learning_rate 0.01 -> 0.02"):
        make_trainer(tmp_path / "b", lr=0.02, resume_from=str(tmp_path / "step_5.pt")).train()


def test_a_checkpoint_of_a_plain_torch_loop_goes_on_like_it(tmp_path: Path):
    """One whose TrainConfig was pickled as an object, as SimScaleAI did: its values are read, and nothing is called."""
    model = Linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-5)
    batches = [batch for _, batch in zip(range(12), _batches(tmp_path), strict=False)]
    for step, batch in enumerate(batches):
        if step == 6:
            torch.save(
                {
                    "step": 6,
                    "model_state_dict": model.state_dict(),
                    "optimizer_state_dict": optimizer.state_dict(),
                    "scheduler_state_dict": {"last_epoch": 6, "_last_lr": [0.1]},
                    "scaler_state_dict": {},
                    "config": make_config(tmp_path),
                    "best_eval_loss": 0.5,
                },
                tmp_path / "step_6.pt",
            )
        optimizer.param_groups[0]["lr"] = _rate(step + 1)
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    trainer = make_trainer(tmp_path / "on", resume_from=str(tmp_path / "step_6.pt"))
    trainer.train()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, trainer.model.state_dict()[name], atol=1e-6), name
    assert torch.load(tmp_path / "on" / "final.pt", weights_only=True)["step"] == 12


def _batches(folder: Path) -> Any:
    """Yield the batches of the trainer, in its order."""
    from simscaleai.training.carrier import unpack

    trainer = make_trainer(folder)
    step = 0
    while True:
        trainer._data.seek(seed=42, step=step)  # type: ignore[union-attr]
        yield unpack(trainer._data.sample(8))  # type: ignore[union-attr]
        step += 1


def _rate(step: int) -> float:
    from simscaleai.training.config import core_config
    from worldline.training.config import learning_rate_at

    return learning_rate_at(core_config(make_config(Path()), batch_size=8), step)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_trainer(tmp_path).train()
    return tmp_path / "step_5.pt"


def read(path: Path, model: nn.Module | None = None) -> Any:
    return read_checkpoint(path, Adapter(model or Linear()))


def test_a_flipped_byte_is_found_or_means_nothing(saved: Path):
    """What lies between the records of the archive is read by nobody."""
    content, expected = saved.read_bytes(), read(saved)
    num_found = 0
    for position in range(0, len(content), 127):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        saved.write_bytes(damaged)
        try:
            found = read(saved)
        except (FileError, DataError):
            num_found += 1
        else:
            assert all(torch.equal(found.model[name], tensor) for name, tensor in expected.model.items())
            assert found.callbacks == expected.callbacks
            assert found.config == expected.config
    assert num_found > len(content) / 127 / 4


def test_other_models_are_told_apart(saved: Path):
    class Wider(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    with pytest.raises(DataError, match="made with another model"):
        read(saved, Wider())


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("change", ["bomb", "keys", "step", "moments", "generators", "list"])
def test_files_with_other_content_are_refused(saved: Path, change: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(saved.parent)
    document: Any = torch.load(saved, weights_only=True)
    if change == "bomb":
        document["config"] = Bomb()
    elif change == "keys":
        del document["best_eval_loss"]
    elif change == "step":
        document["step"] = "five"
    elif change == "moments":
        document["optimizer_state_dict"]["state"][0]["exp_avg"] = torch.zeros(5)
    elif change == "generators":
        document["scheduler_state_dict"]["generators"] = {"cpu": torch.zeros(3, dtype=torch.uint8)}
    else:
        document = [1, 2]
    torch.save(document, saved)
    with pytest.raises((FileError, DataError)):
        make_trainer(saved.parent / "b", resume_from=str(saved)).train()
    assert not (saved.parent / "exploded").exists()


def test_files_of_other_kinds_are_refused(saved: Path, tmp_path: Path):
    with pytest.raises(FileError, match="There is no checkpoint"):
        read(tmp_path / "step_7.pt")
    (tmp_path / "step_1.pt").write_bytes(pickle.dumps({"step": 1}))
    with pytest.raises(FileError, match="cannot be read as a checkpoint"):
        read(tmp_path / "step_1.pt")
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(FileError, match="compressed"):
        read(tmp_path / "packed.pt")
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="another model"):
        read(tmp_path / "huge.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_that_is_resumed_ends_with_the_same_bits(tmp_path: Path):
    make: dict[str, Any] = {"noise": 0.1, "dropout": 0.2, "max_steps": 200, "save_every": 20}
    make_trainer(tmp_path / "whole", **make).train()
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, simscale_runs.__file__, str(folder)], stderr=subprocess.DEVNULL)
    while not list_checkpoints(folder) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    make_trainer(folder, **make, resume_from=str(folder)).train()
    assert same_weights(tmp_path / "whole" / "final.pt", folder / "final.pt")
    assert [step_of(path) for path in list_checkpoints(folder)] == list(range(20, 201, 20))


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_run_that_is_asked_to_end_saves_its_step(tmp_path: Path, number: signal.Signals, raised: type[BaseException]):
    make_trainer(tmp_path / "whole", noise=0.1).train()
    asked = make_trainer(tmp_path / "asked", noise=0.1, eval_every=3, eval_fn=lambda model: signal.raise_signal(number))
    with pytest.raises(raised):
        asked.train()
    assert [path.name for path in (tmp_path / "asked").glob("*.pt")] == ["step_3.pt"]
    make_trainer(tmp_path / "on", noise=0.1, resume_from=str(tmp_path / "asked")).train()
    assert same_weights(tmp_path / "whole" / "final.pt", tmp_path / "on" / "final.pt")


def test_two_processes_equal_one_with_the_doubled_batch(ranks: RankPool, tmp_path: Path):
    """37 samples in batches of 16: the last of an epoch has 5."""
    alone = train(tmp_path / "one", batch_size=16)
    first, second = ranks.run(train, 2, folder=tmp_path / "two", batch_size=8)
    for name, value in alone["weights"].items():
        assert abs(first["weights"][name] - value).max() < 1e-6, name
        assert (first["weights"][name] == second["weights"][name]).all(), name
    for result in (first["result"], second["result"]):
        assert result["final_loss"] == pytest.approx(alone["result"]["final_loss"], abs=1e-6)
        assert result["eval/loss"] == pytest.approx(alone["result"]["eval/loss"], abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "two").glob("*.pt")) == ["final.pt", "step_10.pt", "step_5.pt"]


def test_two_processes_resume_exactly(ranks: RankPool, tmp_path: Path):
    settings = {"batch_size": 8, "noise": 0.1, "dropout": 0.3}
    whole = ranks.run(train, 2, folder=tmp_path / "whole", **settings)
    ranks.run(train, 2, folder=tmp_path / "on", resume_from=str(tmp_path / "whole" / "step_5.pt"), **settings)
    assert same_weights(tmp_path / "whole" / "final.pt", tmp_path / "on" / "final.pt")
    assert (whole[0]["weights"]["net.0.weight"] == whole[1]["weights"]["net.0.weight"]).all()
