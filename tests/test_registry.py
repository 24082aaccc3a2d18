from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import pytest

import tiny_family
from worldline import registry
from worldline.errors import ConfigError


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FAMILIES", (tiny_family.FAMILY,))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tiny:size1m", "size1m"),
        ("tiny:1m", "size1m"),
        ("tiny:small", "size1m"),
        ("tiny", "size12m"),
        ("wee", "size12m"),
        ("wee:large", "size12m"),
        ("wee-small", "size1m"),
        ("tiny-12m", "size12m"),
    ],
)
def test_names(name: str, size: str):
    assert registry.resolve(name) == (tiny_family.FAMILY, size)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", r"No model family is called 'tinny'. Did you mean 'tiny'\?"),
        ("Tiny", r"Did you mean 'tiny'\?"),
        ("tiny:size2m", r"tiny has no size 'size2m'. Did you mean 'size\d+m'\? Known: size12m, size1m"),
        ("tiny-huge", "tiny has no size 'huge'"),
        ("", "No model family"),
        (":size1m", "No model family"),
    ],
)
def test_unknown_names_give_the_nearest(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        registry.resolve(name)


def test_names_are_unique_in_worldline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    names = [name for family in registry.FAMILIES for name in (family.name, *family.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "family", "size"),
    [
        ("shield:flow_matching", "flow_matching_shield", "small"),
        ("shield:flow_matching:base", "flow_matching_shield", "base"),
        ("shield:quantile:medium", "quantile_shield", "base"),
        ("diffusion_shield:base", "diffusion_shield", "base"),
    ],
)
def test_an_alias_may_have_a_colon(monkeypatch: pytest.MonkeyPatch, name: str, family: str, size: str):
    monkeypatch.undo()
    found, found_size = registry.resolve(name)
    assert (found.name, found_size) == (family, size)


def test_unknown_shields_give_the_nearest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="Did you mean 'shield:quantile'"):
        registry.resolve("shield:quantil")


def _entry(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = importlib.metadata.EntryPoint(name="other", value=value, group="worldline.families")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry])


def test_other_distributions_add_families(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "FAMILIES", ())
    _entry(monkeypatch, "tiny_family:FAMILY")
    assert registry.resolve("wee:small") == (tiny_family.FAMILY, "size1m")


def test_other_distributions_do_not_replace_families(monkeypatch: pytest.MonkeyPatch):
    impostor = registry.Family(
        name="tiny", module="nowhere", model="X", config="Y", default_size="z", description="An impostor."
    )
    monkeypatch.setattr(tiny_family, "IMPOSTOR", impostor, raising=False)
    _entry(monkeypatch, "tiny_family:IMPOSTOR")
    assert registry.families() == {"tiny": tiny_family.FAMILY}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("not_installed:FAMILY", r"'other' \(not_installed:FAMILY\) cannot be loaded"),
        ("tiny_family:MISSING", "cannot be loaded"),
        ("tiny_family:SIZES", "must be a worldline.registry.Family; got dict"),
    ],
)
def test_a_broken_entry_point_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str):
    _entry(monkeypatch, value)
    with pytest.raises(ConfigError, match=message):
        registry.families()


def test_a_family_is_imported_when_it_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "tiny_family")
    known: dict[str, Any] = registry.families()
    assert "tiny" in known
    assert "tiny_family" not in sys.modules
    assert registry.load(known["tiny"], "SIZES")["size1m"] == {"width": 4}
