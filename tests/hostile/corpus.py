"""Files that were made to do harm, and which readers each might reach.

A case is a name and a function that makes a file or folder at a path. What it makes depends on nothing but these files.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from hostile import array_files, data_files, flowshield_files, model_files  # each adds its cases
from hostile.flowshield_files import valid_flowshield, valid_trajectories
from hostile.making import CASES, MARKER, npz, official
from hostile.model_files import valid_checkpoint, valid_model, valid_online

__all__ = [
    "CASES",
    "MARKER",
    "array_files",
    "data_files",
    "flowshield_files",
    "make_all",
    "model_files",
    "npz",
    "official",
    "valid_checkpoint",
]
__all__ += ["valid_flowshield", "valid_model", "valid_online", "valid_trajectories"]


def make_all(root: Path) -> dict[str, tuple[tuple[str, ...], Path]]:
    """Make every file below `root`; return readers and path by name."""
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, (name, (readers, make)) in enumerate(CASES.items()):
            path = root / f"{index:03d}"
            make(path)
            made[name] = readers, path
    return made
