"""What `worldline train` learns from: the episodes of a file, those to be collected, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worldline.cli import online, runs
from worldline.errors import ConfigError

if TYPE_CHECKING:
    from worldline.data.buffer import ReplayBuffer
    from worldline.data.dataset import Dataset


def open_data(path: Path | None, collecting: online.OnlineConfig, out: Path) -> ReplayBuffer | Dataset:
    """Return the episodes of the data; where they are learnt from online, with room for more.

    Raises:
        FileError: The data is missing or damaged.
        ConfigError: The environment is unknown, or not that of the data; or there is more data than memory takes.
    """
    from worldline.data.dataset import Dataset

    loaded = None if path is None else _load(path, out / runs.IMPORTED)
    if not collecting.env:
        assert loaded is not None
        return loaded
    if isinstance(loaded, Dataset):
        raise ConfigError(
            f"{path} is mapped from the disk, and nothing can be added to it. Leave out --env, or learn from "
            f"less: worldline convert writes a folder of columns as .npz."
        )
    return online.open_buffer(collecting, loaded)


def _load(path: Path, import_to: Path) -> ReplayBuffer | Dataset:
    """Return data of any format; of several processes the first one imports what is too large for memory."""
    from worldline.cli.terminal import progress, step_progress
    from worldline.data.buffer import ReplayBuffer
    from worldline.data.dataset import Dataset
    from worldline.data.loading import mapped_folder
    from worldline.training.distributed import join

    def find() -> str | None:
        with step_progress(f"Importing {path} into {import_to}") as on_episodes:
            folder = mapped_folder(path, import_to, on_episodes=on_episodes)
        return None if folder is None else str(folder)

    folder = join().first(find)
    if folder is None:
        return ReplayBuffer.load(path)
    data = Dataset(folder)
    progress.print(f"{folder} is mapped from the disk: {data.num_transitions:,} steps.", soft_wrap=True, markup=False)
    return data
