"""FlowShield's data files: the layouts that there are, read into Worldline's replay buffer.

| file  | holds                                                                                                    |
|-------|----------------------------------------------------------------------------------------------------------|
| .npz  | `states [N, D]`, `actions [N, A]` or `[N]`, `rewards [N]`, `dones [N]`, and maybe `next_states [N, D]`   |
| .npz  | Worldline's own, see `worldline.data.formats.npz`                                                        |
| .pkl  | a dict with the same arrays                                                                              |
| .pkl  | a list of trajectories, or a dict that has it as "trajectories"; each is a dict with the same arrays of  |
|       | T rows, of which `states` may have T + 1 and `dones` may be left out                                     |

Other keys are not read. Whole numbers as actions `[N]` are choices, from 0 on; the largest one says how many there are.
A done counts as a termination, as nothing better is known; rows after the last one are an episode that was cut off.
Which kind a file is, its first bytes say and not its name. Nothing is unpickled: see `worldline.data.formats.pickled`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.buffer import ReplayBuffer
from worldline.data.encode import infer_action_sizes
from worldline.data.formats.archive import Archive
from worldline.data.formats.pickled import read_pickle
from worldline.data.formats.recording import check_size
from worldline.episode import Array, Episode, numeric_array
from worldline.errors import DataError, FileError
from worldline.files import regular_size

_COLUMNS = ("states", "actions", "rewards", "dones")
_EXPECTED = (
    "Expected states, actions, rewards and dones as arrays, or a list of trajectories that have them; save an .npz "
    "file with np.savez(path, states=..., actions=..., rewards=..., dones=...)."
)


def read_buffer(path: str | os.PathLike[str]) -> ReplayBuffer:
    """Return the episodes of a file.

    Raises:
        FileError: It is missing, damaged, hostile, or of no layout that is known.
        DataError: Its arrays do not fit together, or hold NaN.
    """
    file = Path(path)
    try:
        regular_size(file)
        with file.open("rb") as stream:
            head = stream.read(2)
    except OSError as error:
        raise FileError(f"Cannot read {file}: {error}. Give a file that DataCollector.save wrote.") from error
    if head == b"PK":
        columns = _flat_arrays(file)
        return ReplayBuffer.load(file) if columns is None else _joined(list(_split(columns)), where=file)
    if head[:1] == b"\x80":
        return _joined(list(_trajectories(read_pickle(file), file)), where=file)
    raise FileError(f"{file} is neither an .npz file nor a pickle. {_EXPECTED}")


def _flat_arrays(file: Path) -> dict[str, Array] | None:
    """Return the arrays of an `.npz` file in FlowShield's layout; None where it is of another."""
    with Archive(file) as archive:
        if "states" not in archive.keys:
            return None
        if missing := [name for name in _COLUMNS if name not in archive.keys]:
            raise FileError(f"{file} has states, but lacks {', '.join(missing)}. {_EXPECTED}")
        wanted = [*_COLUMNS, *(name for name in ("next_states",) if name in archive.keys)]
        members = {name: archive.member(name) for name in wanted}
        check_size(file, sum(member.num_bytes for member in members.values()), archive.size, None)
        return {name: archive.read(member) for name, member in members.items()}


def _trajectories(value: Any, file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the trajectories of a pickle, each as columns."""
    if isinstance(value, Mapping) and "trajectories" in value:
        value = value["trajectories"]
    if isinstance(value, Mapping):
        _check_keys(value, _COLUMNS, where=f"{file}")
        yield from _split(
            {name: numeric_array(name, value[name]) for name in (*_COLUMNS, "next_states") if name in value}
        )
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value):
        for index, item in enumerate(value):
            if not isinstance(item, Mapping):
                raise FileError(f"{file}: trajectory {index} is a {type(item).__name__}, not a dict. {_EXPECTED}")
            _check_keys(item, _COLUMNS[:3], where=f"{file}: trajectory {index}")
            yield item
    else:
        raise FileError(f"{file} holds a {type(value).__name__}. {_EXPECTED}")


def _check_keys(columns: Mapping[str, Any], needed: Sequence[str], *, where: str) -> None:
    if missing := [name for name in needed if name not in columns]:
        found = ", ".join(map(str, list(columns)[:20])) or "nothing"
        raise FileError(f"{where} lacks {', '.join(missing)}; it has {found[:300]}. {_EXPECTED}")


def _split(columns: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Yield the episodes of flat arrays, each as columns; the last may be unfinished."""
    dones = columns["dones"].reshape(-1)
    lengths = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or len(dones) == 0:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"The arrays have different numbers of rows: {found}. Every column needs one row per step.")
    start = 0
    for end in [*(np.flatnonzero(dones) + 1).tolist(), len(dones)]:
        if end > start:
            yield {name: column[start:end] for name, column in columns.items()}
        start = end


def _joined(trajectories: list[Mapping[str, Any]], *, where: Path) -> ReplayBuffer:
    """Return a buffer of the trajectories."""
    actions = [numeric_array("actions", columns["actions"]) for columns in trajectories]
    width, sizes = _action_layout(actions)
    episodes = []
    for index, (columns, taken) in enumerate(zip(trajectories, actions, strict=True)):
        try:
            episodes.append(_episode(columns, taken))
        except DataError as error:
            raise DataError(f"{where}: in episode {index}, {error}") from error
    return ReplayBuffer.from_episodes(episodes, action_dim=width, action_sizes=sizes)


def _episode(columns: Mapping[str, Any], actions: Array) -> Episode:
    states, rewards = numeric_array("states", columns["states"]), numeric_array("rewards", columns["rewards"])
    num_steps = rewards.size
    dones = numeric_array("dones", columns.get("dones", np.zeros(num_steps))).reshape(-1)
    if len(dones) != num_steps or dones[:-1].any():
        raise DataError(f"dones has {len(dones)} rows with a done before the last, or not {num_steps}, one per step.")
    final = None
    if states.ndim == 2 and len(states) == num_steps + 1:
        states, final = states[:-1], states[-1]
    elif "next_states" in columns:
        final = numeric_array("next_states", columns["next_states"])[-1]
    is_done = bool(dones[-1])
    return Episode(
        obs=states,
        actions=actions,
        rewards=rewards.reshape(-1),
        terminated=is_done,
        truncated=not is_done,
        final_obs=final,
    )


def _action_layout(actions: Sequence[Array]) -> tuple[int, tuple[int, ...]]:
    """Return the width of an action row, and the number of choices where actions are discrete."""
    widths = {1 if column.ndim < 2 else column.shape[1] for column in actions}
    if len(widths) > 1 or any(column.ndim not in (1, 2) for column in actions):
        raise DataError(f"Actions are rows of different widths: {sorted(widths)}. Every episode needs the same.")
    (width,) = widths
    if width > 1:
        found = {infer_action_sizes(column, width) for column in actions if len(column)}
        return width, next(iter(found)) if len(found) == 1 else ()
    if all(column.dtype.kind in "biu" for column in actions):
        num_choices = max(2, 1 + max((int(column.max()) for column in actions if column.size), default=0))
        if num_choices > _MAX_CHOICES:
            raise DataError(f"Actions are whole numbers up to {num_choices - 1:,}. Save continuous ones as floats.")
        return num_choices, (num_choices,)
    return 1, ()


_MAX_CHOICES = 1 << 12  # each action becomes a row of so many numbers
