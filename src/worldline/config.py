"""Settings: frozen dataclass <-> plain dict, strictly, for files, checkpoints and the command line; their bounds."""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from worldline.errors import ConfigError, nearest, shown

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as a dict of plain values (tuples become lists, paths strings), ready for JSON or YAML.

    Fields that the constructor does not take are left out, so that `from_dict` reads what this returns.
    """
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the dataclass `cls` from `values`.

    Lists become tuples, whole floats integers, numbers floats, strings paths and mappings dataclasses, as the types
    of the fields ask; anything else must have the field's type already. Numbers may be NumPy's.

    Args:
        cls: The dataclass to build.
        values: Settings by name.
        where: What to call `cls` in messages.

    Raises:
        ConfigError: An unknown key (with the nearest known one), a value of the wrong type, or a missing field.
    """
    assert dataclasses.is_dataclass(cls)
    name = where or cls.__name__
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{name} has no setting {shown(key)}. {nearest(str(key), fields)}")
    required = {
        key
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - values.keys()):
        raise ConfigError(f"{name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing.")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _read(hints[key], value, f"{name}.{key}") for key, value in values.items()})


def check_bounds(config: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Check that settings are between the least and the greatest value that they may have, both included.

    Raises:
        ConfigError: One is not, or is NaN.
    """
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} must be between {low} and {high}; got {value}.")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# One reader per kind of type: each takes the type, a value and the setting's name, and returns the value as the type
# asks or raises. `_READERS`, below them, says which reads what.


def _read(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value, where)
    reader = _READERS.get(typing.get_origin(hint) or hint, _read_instance)
    return reader(hint, value, where)


def _read_any(hint: Any, value: Any, where: str) -> Any:
    return value


def _read_instance(hint: Any, value: Any, where: str) -> Any:
    # Before Python 3.11, dict[str, int] calls itself a type.
    if typing.get_origin(hint) is None and isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _refusal(hint, value, where)


def _read_dataclass(hint: Any, value: Any, where: str) -> Any:
    return from_dict(hint, value, where=where) if isinstance(value, Mapping) else _read_instance(hint, value, where)


def _read_union(hint: Any, value: Any, where: str) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if value is None and len(options) < len(typing.get_args(hint)):
        return None
    if len(options) == 1:  # its own message says more than "one of these"
        return _read(options[0], value, where)
    for option in options:
        try:
            return _read(option, value, where)
        except ConfigError:
            continue
    raise _refusal(hint, value, where)


def _read_literal(hint: Any, value: Any, where: str) -> Any:
    if value in typing.get_args(hint):
        return value
    raise _refusal(hint, value, where)


def _read_tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    args = typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise _refusal(hint, value, where)
    if not args:
        return tuple(value)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise _refusal(hint, value, where)
    return tuple(_read(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))


def _read_list(hint: Any, value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _refusal(hint, value, where)
    (item_hint,) = typing.get_args(hint) or (Any,)
    return [_read(item_hint, item, f"{where}[{i}]") for i, item in enumerate(value)]


def _read_mapping(hint: Any, value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _refusal(hint, value, where)
    key_hint, item_hint = typing.get_args(hint) or (Any, Any)
    return {
        _read(key_hint, key, f"{where} (its key)"): _read(item_hint, item, f"{where}[{shown(key)}]")
        for key, item in value.items()
    }


def _read_int(hint: Any, value: Any, where: str) -> int:
    if not _is_number(value) or not -math.inf < value < math.inf or int(value) != value:
        raise _refusal(hint, value, where)
    return int(value)


def _read_float(hint: Any, value: Any, where: str) -> float:
    if not _is_number(value) or value != value:  # infinity is a setting (no clipping), NaN never is
        raise _refusal(hint, value, where)
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        raise _refusal(hint, value, where) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _read_path(hint: Any, value: Any, where: str) -> Path:
    if isinstance(value, str | Path):
        return Path(value)
    raise _refusal(hint, value, where)


_READERS: dict[Any, Callable[[Any, Any, str], Any]] = {
    Any: _read_any,
    typing.Union: _read_union,
    types.UnionType: _read_union,
    typing.Literal: _read_literal,
    tuple: _read_tuple,
    list: _read_list,
    dict: _read_mapping,
    collections.abc.Mapping: _read_mapping,
    int: _read_int,
    float: _read_float,
    Path: _read_path,
}


def _refusal(hint: Any, value: Any, where: str) -> ConfigError:
    return ConfigError(f"{where} must be {_describe(hint)}; got {shown(value)} ({type(value).__name__}).")


def _describe(hint: Any) -> str:
    args = typing.get_args(hint)
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in args)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(repr, args))}"
    return hint.__name__ if isinstance(hint, type) and not args else str(hint)
