"""Every format by name: which one a file is of, and its module, loaded when it is needed."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from worldline.data.formats.chosen import ChosenRecording
from worldline.errors import ConfigError, FileError, nearest

if TYPE_CHECKING:
    from worldline.data.formats.recording import Recording
    from worldline.data.store import EpisodeStore
    from worldline.episode import DataSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A layout of files, in a module of this package with `detect`, `read` and, where it is written, `write`."""

    module: str
    summary: str
    suffixes: tuple[str, ...] = ()  # of names that mean this format when it is written
    is_written: bool = True
    is_folder: bool = False


# In the order in which they are tried: what has more marks first.
FORMATS: dict[str, Format] = {
    "columns": Format(module="columns", summary="folder of memory-mapped columns", suffixes=("",), is_folder=True),
    "minari": Format(module="minari", summary="Minari, HDF5", is_written=False, is_folder=True),
    "lerobot": Format(module="lerobot", summary="LeRobot v2.1 and v3.0", is_written=False, is_folder=True),
    "zarr": Format(module="zarr", summary="zarr of diffusion policy", suffixes=(".zarr",), is_folder=True),
    "robomimic": Format(module="robomimic", summary="robomimic, HDF5"),
    "d4rl": Format(module="d4rl", summary="D4RL, flat HDF5"),
    "hdf5": Format(module="hdf5", summary="HDF5, one group per episode", suffixes=(".h5", ".hdf5")),
    "npz": Format(module="npz", summary="replay buffer, .npz", suffixes=(".npz",)),
}


class FormatModule(Protocol):
    """What a format's module has."""

    def detect(self, path: Path) -> bool:
        """Tell whether a file is of this format."""
        ...

    def read(self, path: Path, *, max_bytes: int | None = None) -> Recording:
        """Open a file of this format."""
        ...

    def write(self, path: Path, store: EpisodeStore, spec: DataSpec, *, meta: Sequence[Mapping[str, Any]]) -> None:
        """Write all episodes of a store, whole or not at all."""
        ...


def module_of(name: str) -> FormatModule:
    """Return the module of a format.

    Raises:
        ConfigError: There is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"There is no format {name!r}. {nearest(name, FORMATS)}")
    return cast(FormatModule, importlib.import_module(f"worldline.data.formats.{FORMATS[name].module}"))


def detect_format(path: str | os.PathLike[str]) -> str:
    """Return the name of the format that a file or folder is of; that of what no format knows is "npz".

    Raises:
        FileError: It is a folder that no format knows.
    """
    path = Path(path)
    for name, known in FORMATS.items():
        if name != "npz" and known.is_folder >= path.is_dir() and module_of(name).detect(path):
            return name
    if (path / "zarr.json").is_file():
        raise FileError(f"{path} is in zarr's format 3. Write it again with zarr.open_group(..., zarr_format=2).")
    if path.suffixes[-2:] == [".zarr", ".zip"]:
        raise FileError(f"{path} is an archive. Unpack it first, and give the folder {path.with_suffix('').name}.")
    if path.is_dir():
        raise FileError(f"{path} is a folder of no format that is known. Known: {_summaries()}.")
    with_magic = importlib.import_module("worldline.data.formats.hdf5_file")
    if with_magic.is_hdf5(path):
        raise FileError(f"{path} is an HDF5 file of no layout that is known. Known: {_summaries()}.")
    return "npz"


def read_recording(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, obs_keys: Sequence[str] | None = None
) -> Recording:
    """Open a file or folder of any format that is read.

    Args:
        path: The file or folder.
        max_bytes: The most that its arrays may take, instead of `recording.check_size`'s limit.
        obs_keys: The observations to read, where they are a dict; None: all.

    Raises:
        FileError: It is missing, damaged, hostile or of no format that is known.
        DataError: Its arrays do not fit together, or there are no such observations.
        MissingPackageError: Its format needs a package that is not installed.
    """
    recording = module_of(detect_format(path)).read(Path(path), max_bytes=max_bytes)
    return recording if obs_keys is None else ChosenRecording(recording, obs_keys)


def format_to_write(path: Path, name: str | None = None) -> str:
    """Return the format to write to `path`: the one named, or the one that the path's suffix means.

    Raises:
        ConfigError: There is no such format, it is not written, or none goes with the suffix.
    """
    if name is not None:
        module_of(name)
        if not FORMATS[name].is_written:
            written = ", ".join(key for key, known in FORMATS.items() if known.is_written)
            raise ConfigError(f"The format {name!r} is read and not written. Known: {written}.")
        return name
    for key, known in FORMATS.items():
        if path.suffix in known.suffixes:
            return key
    suffixes = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes if suffix)
    raise ConfigError(f"{path} has the suffix {path.suffix!r}. Known: {suffixes}; none is a folder of columns.")


def _summaries() -> str:
    return ", ".join(f"{name} ({known.summary})" for name, known in FORMATS.items())
