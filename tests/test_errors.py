from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import (
    ConfigError,
    DataError,
    FieldError,
    FileError,
    MissingPackageError,
    NonFiniteError,
    WorldlineError,
    missing_package,
    nearest,
    shown,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ConfigError, ValueError),
        (DataError, ValueError),
        (FieldError, KeyError),
        (FileError, OSError),
        (NonFiniteError, ArithmeticError),
        (MissingPackageError, ImportError),
    ],
)
def test_every_error_is_a_worldline_error_and_a_builtin_one(error: type[WorldlineError], builtin: type[Exception]):
    with pytest.raises(WorldlineError) as caught:
        raise error("what to do")
    assert isinstance(caught.value, builtin)
    assert str(caught.value) == "what to do"


def test_missing_package_names_the_pip_line():
    message = str(missing_package("wandb", "wandb", "Logging to Weights & Biases"))
    assert "'wandb'" in message
    assert "pip install 'worldline[wandb]'" in message


def test_nearest_finds_the_near_and_lists_all():
    assert nearest("sequence_lenght", ["batch_size", "sequence_length"]) == (
        "Did you mean 'sequence_length'? Known: batch_size, sequence_length."
    )
    assert nearest("zzz", ["batch_size"]) == "Known: batch_size."
    assert nearest("zzz", []) == "Known: none."


def test_nearest_looks_past_case_and_keeps_the_known_spelling():
    assert nearest("dreamerv3", ["DreamerV3"]).startswith("Did you mean 'DreamerV3'?")


def test_nearest_is_quick_with_a_hostile_name():
    start = time.perf_counter()
    nearest("size" * 1_000_000, [f"size{i}" for i in range(100)])
    assert time.perf_counter() - start < 1


@given(st.one_of(st.text(), st.integers(), st.lists(st.text()), st.dictionaries(st.text(), st.integers())))
def test_shown_is_short(value: object):
    assert len(shown(value)) <= 1000


def test_shown_keeps_the_ends_of_what_it_cuts():
    assert shown("a" * 500 + "z").startswith("'aaa")
    assert shown("a" * 500 + "z").endswith("z'")
