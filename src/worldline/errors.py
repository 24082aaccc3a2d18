"""Errors that a user can act on.

Every message says what was expected, what was got and what to do about it. Our own mistakes are `assert`s, not these.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class WorldlineError(Exception):
    """Base of every error that Worldline raises on purpose."""


class ConfigError(WorldlineError, ValueError):
    """A setting, keyword or name that Worldline does not know or cannot use."""


class DataError(WorldlineError, ValueError):
    """Data whose shape, type or content cannot be used."""


class FieldError(WorldlineError, KeyError):
    """A field that a batch does not have."""

    def __str__(self) -> str:
        # KeyError shows the repr of its message, quotes and all.
        return str(self.args[0])


class FileError(WorldlineError, OSError):
    """A file that is missing, damaged, hostile or not what it claims to be."""


class AnomalyError(WorldlineError, ArithmeticError):
    """Training that went wrong: a loss that jumped, if it was watched for that."""


class NonFiniteError(AnomalyError):
    """A loss or gradient that became NaN or infinite."""


class MissingPackageError(WorldlineError, ImportError):
    """An optional package that the requested feature needs."""


def missing_package(package: str, extra: str, purpose: str) -> MissingPackageError:
    """Return the error for an optional `package`, naming the pip line that installs `extra`."""
    return MissingPackageError(
        f"{purpose} needs the package {package!r}, which is not installed. "
        f"Install it with: pip install 'worldline[{extra}]'"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase for messages: the nearest known name, if one is near, and the list of all of them.

    >>> nearest("sise12m", ["size1m", "size12m"])
    "Did you mean 'size12m'? Known: size12m, size1m."
    """
    options = sorted(known)
    # Names come from files as well, and the comparison costs the product of the lengths.
    match = difflib.get_close_matches(
        name[:_MAX_SHOWN].lower(), [option.lower() for option in options], n=1, cutoff=0.5
    )
    hint = next((f"Did you mean {option!r}? " for option in options if match and option.lower() == match[0]), "")
    return f"{hint}Known: {', '.join(options) or 'none'}."


def shown(value: Any) -> str:
    """Return a short repr of `value` for a message: a hostile file must not fill the terminal.

    >>> len(shown("x" * 1_000_000)) < 100
    True
    """
    return _REPR.repr(value)


_MAX_SHOWN = 80
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _MAX_SHOWN
