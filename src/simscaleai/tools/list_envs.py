"""`simscale list-envs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from worldline.cli.options import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of `simscale list-envs`: none."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parse(ListOptions, arguments, command="list-envs", description="List the environments.", program="simscale")
    from simscaleai.sim.environments import describe, list_envs

    for name in list_envs():
        print(f"{name:<18}{describe(name)}")
