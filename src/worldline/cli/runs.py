"""A run's folder: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `final/`, `report.html`.

Where the weights are averaged (`ema_decay`), `final/` has the average, and `final_unaveraged/` the last weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from worldline import __version__
from worldline.cli.online import FREE, OnlineConfig
from worldline.config import from_dict, to_dict
from worldline.errors import ConfigError, FileError
from worldline.files import sha256, total_size, write_atomically
from worldline.training.config import TrainingConfig, free_settings

T = TypeVar("T")

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
FINAL = "final"
UNAVERAGED = "final_unaveraged"
REPORT = "report.html"
IMPORTED = "data"  # columns of what was too large for memory

_MAX_CONFIG_BYTES = 1 << 16  # usual are some thousand
_MAX_METRICS_BYTES = 1 << 28
_MAX_BRACKETS = 500


class _PlainLoader(yaml.SafeLoader):
    """Takes no references within the file, by which a few lines can stand for more than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to another place of itself (an alias), which no configuration does")
        return super().compose_node(parent, index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFile:
    """The file that a run learns from, and how to recognise it."""

    path: str
    size: int  # bytes
    sha256: str
    num_episodes: int
    num_transitions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What `config.yaml` records: everything that a run depends on."""

    model: str  # "family:size"
    model_settings: dict[str, Any]  # what --set asked for
    model_config: dict[str, Any]  # everything that the model was built with
    training: TrainingConfig
    data: DataFile | None  # None where everything is collected
    command: str  # that began it
    versions: dict[str, str]
    num_threads: int = 0
    online: OnlineConfig | None = None
    held_out: float = 0.0  # share of the episodes that is not learnt from


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    import gymnasium
    import numpy as np
    import torch

    return {
        "worldline": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "gymnasium": str(gymnasium.__version__),
        "platform": platform.platform(),
    }


def check_folder(out: Path, *, resume: bool, config: str = CONFIG) -> None:
    """Check that a run may write into `out`: new or empty, or one to resume, which has the file `config`.

    A run that ended before it did anything (because a setting was wrong) leaves its folder as good as empty.

    Raises:
        ConfigError: It holds something, and `resume` was not asked for.
        FileError: It is a file, or `resume` was asked for and what it holds is not a run.
    """
    if out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file. Choose a folder with --out.")
    is_run = (out / config).is_file()
    if not _holds_anything(out) or (resume and is_run):
        return
    if resume:
        raise FileError(f"{out} is not empty, but has no {config}: there is no run to resume. Choose another --out.")
    hint = "Add --resume to go on with the run in it, or choose" if is_run else "Choose"
    raise ConfigError(f"{out} is not empty. {hint} another folder with --out.")


def is_begun(out: Path) -> bool:
    """Return whether a run has done anything in `out` that is worth keeping."""
    return steps_done(out) > 0 or bool(read_metrics(out))


def write_config(path: Path, config: Any) -> None:
    """Write a configuration as YAML, whole or not at all.

    Raises:
        FileError: The folder cannot be written.
    """
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=100))


def read_config(path: Path, cls: type[T]) -> T:
    """Read what `write_config` wrote, as the dataclass `cls`.

    Raises:
        FileError: It is missing, or not such a configuration.
    """
    if not path.is_file():
        raise FileError(
            f"{path.parent} is not a run: it has no {path.name}. Give the folder that worldline train wrote."
        )
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise FileError(
            f"{path} has {path.stat().st_size} bytes; a configuration has fewer than {_MAX_CONFIG_BYTES}. "
            "Restore it, or begin a new run."
        )
    return parse_config(path.read_bytes(), cls, path=path)


def parse_config(content: bytes, cls: type[T], *, path: Path) -> T:
    """Return the dataclass `cls` that the bytes of `path` hold.

    Raises:
        FileError: They are not such a configuration.
    """
    if content.count(b"[") + content.count(b"{") > _MAX_BRACKETS:  # which take long to find wrong
        raise FileError(f"{path} is no configuration, which has few brackets. Restore it, or begin a new run.")
    try:
        values = yaml.load(content.decode(), Loader=_PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path} cannot be read: {error}. Restore it, or begin a new run.") from error
    if not isinstance(values, dict):
        raise FileError(f"{path} does not hold settings. Restore it, or begin a new run.")
    try:
        return from_dict(cls, values, where=str(path))
    except ConfigError as error:
        raise FileError(f"{error} Restore the file, or begin a new run.") from error


def changed(before: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str] = ()) -> list[str]:
    """Return "KEY was VALUE, not VALUE" of every setting that differs, but for those that are `free` to."""
    return [
        f"{key} was {before.get(key)!r}, not {now.get(key)!r}"
        for key in {**before, **now}
        if key not in free and before.get(key) != now.get(key)
    ]


def differences(saved: RunConfig, asked: RunConfig) -> list[str]:
    """Return in what two runs differ, but for settings that may change."""
    changes = changed(to_dict(saved.training), to_dict(asked.training), free=free_settings(asked.training))
    if saved.model != asked.model:  # another model has other settings: a list of all of them would hide that
        changes.append(f"the model was {saved.model}, not {asked.model}")
    else:
        changes += [f"the model's {change}" for change in changed(saved.model_config, asked.model_config)]
    changes += _data_changes(saved.data, asked.data)
    if saved.held_out != asked.held_out:
        changes.append(f"held_out was {saved.held_out}, not {asked.held_out}")
    collected, collecting = (to_dict(config.online or OnlineConfig()) for config in (saved, asked))
    return changes + changed(collected, collecting, free=FREE)


def check_resumed(saved: RunConfig, asked: RunConfig, *, out: Path) -> None:
    """Check that the run that is asked for is the saved one, but for settings that may change.

    Raises:
        ConfigError: It is another one; the message has every difference.
    """
    if changes := differences(saved, asked):
        raise ConfigError(
            f"The run in {out} was begun differently: {'; '.join(changes)}. Resume it with what it was begun with, or "
            "begin a new one in another --out."
        )


def _data_changes(saved: DataFile | None, asked: DataFile | None) -> list[str]:
    if (saved and saved.sha256) == (asked and asked.sha256):
        return []
    if saved is None:
        return ["there was no data file"]
    found = "no data file was given" if asked is None else f"which {asked.path} differs from"
    return [f"the data was {saved.path} ({saved.size:,} bytes), {found}"]


def saved_model(folder: Path) -> Path:
    """Return the saved model that `folder` means: itself, or a run's final model or newest intact checkpoint.

    Raises:
        FileError: There is none.
    """
    from worldline.training.checkpoint import list_checkpoints, load_checkpoint

    for candidate in (folder, folder / FINAL):
        if (candidate / "config.json").is_file():
            return candidate
    if list_checkpoints(folder / CHECKPOINTS):
        newest = load_checkpoint(folder / CHECKPOINTS).path
        assert newest is not None
        return newest
    found = "it has neither config.json nor final/ nor checkpoints/"
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "there is no such folder"
    raise FileError(f"{folder} is neither a saved model nor a run: {found}. Give a folder that worldline train wrote.")


def steps_done(out: Path) -> int:
    """Return the step of the newest checkpoint of a run; 0 if it has none."""
    from worldline.training.checkpoint import list_checkpoints, step_of

    checkpoints = list_checkpoints(out / CHECKPOINTS)
    return step_of(checkpoints[-1]) if checkpoints else 0


def describe_data(path: Path, *, num_episodes: int, num_transitions: int) -> DataFile:
    """Return what `config.yaml` records about a data file or folder."""
    return DataFile(
        path=str(path),
        size=total_size(path),
        sha256=_digest(path),
        num_episodes=num_episodes,
        num_transitions=num_transitions,
    )


def _digest(path: Path) -> str:
    """Return what tells one data set from another: the SHA-256 of a file, or of the digests of a folder's files.

    The manifest of a folder of columns has those already, so that its gigabytes need not be read.
    """
    from worldline.data.columns import MANIFEST, is_columns

    if not path.is_dir():
        return sha256(path)
    if is_columns(path):
        return sha256(path / MANIFEST)
    files = sorted(item for item in path.rglob("*") if item.is_file() and not item.is_symlink())
    listed = "".join(f"{item.relative_to(path).as_posix()} {sha256(item)}\n" for item in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def read_metrics(out: Path) -> list[dict[str, float]]:
    """Return the lines of `metrics.jsonl`, each with its "step"; none if there is no such file.

    A null is a value that was not finite and becomes NaN. What is no such line, as a kill leaves it, is passed over.

    Raises:
        FileError: The file is larger than a log can be.
    """
    path = out / METRICS
    if path.is_file() and path.stat().st_size > _MAX_METRICS_BYTES:
        raise FileError(
            f"{path} has {path.stat().st_size:,} bytes; a log has fewer than {_MAX_METRICS_BYTES:,}. Move it away."
        )
    return parse_metrics(path.read_bytes()) if path.is_file() else []


def parse_metrics(content: bytes) -> list[dict[str, float]]:
    """Return the lines of a metrics file of which `content` is all, or a part."""
    rows = []
    for line in content.decode(errors="replace").splitlines():
        try:
            record = json.loads(line, parse_int=float)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        numbers = {name: math.nan if value is None else value for name, value in record.items()}
        row = {name: value for name, value in numbers.items() if isinstance(value, float)}
        if math.isfinite(row.get("step", math.nan)):
            rows.append(row)
    return rows


def logged(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[int, float]]:
    """Return (step, value) of every line of `read_metrics` that has a finite `name`."""
    return [(int(row["step"]), row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        FileError: It cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise FileError(f"{path} is a file. Choose a folder with --out.") from error
    except OSError as error:
        raise FileError(f"Cannot make the folder {path}: {error}. Choose one that you may write to.") from error
    if not os.access(path, os.W_OK):
        raise FileError(f"The folder {path} cannot be written to. Choose one that you may write to.")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, sees the old content or the new one.

    Raises:
        FileError: It cannot be written.
    """
    make_folder(path.parent)
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error}. Choose a folder you may write to.") from error


def _holds_anything(folder: Path) -> bool:
    """Whether `folder` holds anything; a killed write may have left a hidden file, which does not count."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    if CONFIG in names and names <= {CONFIG, METRICS, CHECKPOINTS, "tensorboard", "profile"} and not is_begun(folder):
        read_config(folder / CONFIG, RunConfig)  # somebody else's file of that name is refused
        return False
    return bool(names)
