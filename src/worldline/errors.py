"""Errors that a user can act on.

Every message says what was expected, what was got and what to do about it. Our own mistakes are `assert`s, not these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorldlineError(Exception):
    """Base of every error that Worldline raises on purpose."""


class ConfigError(WorldlineError, ValueError):
    """A setting, keyword or name that Worldline does not know or cannot use."""


class DataError(WorldlineError, ValueError):
    """Data whose shape, type or content cannot be used."""


class FileError(WorldlineError, OSError):
    """A file that is missing, damaged, hostile or not what it claims to be."""


class NonFiniteError(WorldlineError, ArithmeticError):
    """A loss or gradient that became NaN or infinite."""


class MissingPackageError(WorldlineError, ImportError):
    """An optional package that the requested feature needs."""


def missing_package(package: str, extra: str, purpose: str) -> MissingPackageError:
    """Return the error for an optional `package`, naming the pip line that installs `extra`."""
    return MissingPackageError(
        f"{purpose} needs the package {package!r}, which is not installed. Install it with: pip install 'worldline[{extra}]'"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase for messages: the nearest known name, if one is near, and the list of all of them."""
    options = sorted(known)
    match = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"Did you mean {match[0]!r}? " if match else ""
    return f"{hint}Known: {', '.join(options)}."
