"""`simscale list-models`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from worldline.cli.options import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of `simscale list-models`: none."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parse(ListOptions, arguments, command="list-models", description="List the models.", program="simscale")
    from simscaleai.models.registry import ModelRegistry, describe

    for name in ModelRegistry.list():
        print(f"{name:<18}{describe(name)}")
