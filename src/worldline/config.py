"""Frozen dataclass <-> plain dict: one strict conversion for files, checkpoints and the command line."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from worldline.errors import ConfigError, nearest

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as a dict of plain values (tuples become lists), ready for JSON or YAML."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the dataclass `cls` from `values`.

    Raises:
        ConfigError: An unknown key (with the nearest known one), a value of the wrong type, or a missing field.
    """
    assert dataclasses.is_dataclass(cls)
    name = where or cls.__name__
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{name} has no setting {key!r}. {nearest(str(key), fields)}")
    required = {
        key
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - values.keys()):
        raise ConfigError(f"{name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing.")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _typed(hints[key], value, f"{name}.{key}") for key, value in values.items()})


def replace(config: T, values: Mapping[str, Any]) -> T:
    """Return `config` with `values` laid over it, checked as `from_dict` does."""
    merged = to_dict(config) | dict(values)
    return from_dict(type(config), merged)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as `hint` asks (lists to tuples, whole floats to ints, numbers to floats), or raise."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _typed_union(args, value, where)
    if origin is typing.Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(repr, args))}; got {value!r}.")
    if origin is tuple and isinstance(value, list | tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_typed(args[0], item, where) for item in value)
        if len(args) == len(value):
            return tuple(_typed(arg, item, where) for arg, item in zip(args, value, strict=True))
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _typed(args[1], item, where) for key, item in value.items()}
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, where=where)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is int and isinstance(value, int | float) and not isinstance(value, bool) and int(value) == value:
        return int(value)
    elif isinstance(hint, type) and hint not in (int, float) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where} must be {_describe(hint)}; got {value!r} ({type(value).__name__}).")


def _typed_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    for option in options:
        try:
            return _typed(option, value, where)
        except ConfigError:
            continue
    described = " or ".join(_describe(option) for option in options)
    raise ConfigError(f"{where} must be {described}; got {value!r} ({type(value).__name__}).")


def _describe(hint: Any) -> str:
    return (
        "None"
        if hint is type(None)
        else getattr(hint, "__name__", str(hint))
        if not typing.get_args(hint)
        else str(hint)
    )
