"""Model families by name: "family:size", their aliases, and entry points for third parties.

Nothing is imported until a model is built: a family is the name of a module and the names in it. A third-party
distribution adds its own through the entry point group `worldline.families`, each entry naming a `Family`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from typing import Any

from worldline.errors import ConfigError, nearest, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Where a model family lives: `module` has `SIZES` (name -> settings), the config class and the model class."""

    name: str
    module: str
    model: str
    config: str
    default_size: str
    description: str
    aliases: tuple[str, ...] = ()
    size_aliases: tuple[tuple[str, str], ...] = ()  # (alias, size), as in ("small", "size12m")


FAMILIES: tuple[Family, ...] = (
    Family(
        name="dreamerv3",
        module="worldline.models.dreamerv3",
        model="DreamerV3",
        config="DreamerV3Config",
        default_size="size12m",
        description="World model with a recurrent categorical latent; learns behaviour in imagination.",
        aliases=("dreamer", "dreamer-v3"),
        size_aliases=(("tiny", "size1m"), ("small", "size12m"), ("medium", "size50m"), ("large", "size200m")),
    ),
    Family(
        name="tdmpc2",
        module="worldline.models.tdmpc2",
        model="TDMPC2",
        config="TDMPC2Config",
        default_size="5m",
        description="World model without a decoder, with a latent state on simplices; acts by planning.",
        aliases=("tdmpc", "td-mpc2"),
        size_aliases=(("tiny", "1m"), ("small", "5m"), ("medium", "48m"), ("large", "317m")),
    ),
    Family(
        name="bc",
        module="worldline.models.bc",
        model="BC",
        config="BCConfig",
        default_size="small",
        description="Behaviour cloning: the policy that makes the actions of the data most likely. A yardstick.",
        aliases=("behaviour-cloning", "behavior-cloning"),
        size_aliases=(("medium", "base"),),
    ),
    Family(
        name="act",
        module="worldline.models.act",
        model="ACT",
        config="ACTConfig",
        default_size="small",
        description="Imitation: chunks of actions by a transformer, averaged where they overlap.",
        aliases=("action-chunking",),
        size_aliases=(("large", "paper"),),
    ),
    Family(
        name="diffusion_policy",
        module="worldline.models.diffusion_policy",
        model="DiffusionPolicy",
        config="DiffusionPolicyConfig",
        default_size="small",
        description="Imitation: chunks of actions by removing noise, for demonstrations that differ.",
        aliases=("diffusion", "dp", "diffusion-policy"),
        size_aliases=(("large", "paper"),),
    ),
    Family(
        name="flow_policy",
        module="worldline.models.flow_policy",
        model="FlowPolicy",
        config="FlowPolicyConfig",
        default_size="small",
        description="Imitation: chunks of actions by flow matching, in few steps.",
        aliases=("flow", "flow-policy"),
        size_aliases=(("large", "paper"),),
    ),
    Family(
        name="vla",
        module="worldline.models.vla",
        model="VLA",
        config="VLAConfig",
        default_size="small",
        description="Imitation from images, instructions and numbers: a transformer with a head for chunks of actions.",
        aliases=("vision-language-action",),
        size_aliases=(("medium", "base"),),
    ),
    Family(
        name="flow_matching_shield",
        module="worldline.models.shields.flow_matching",
        model="FlowMatchingShield",
        config="FlowMatchingShieldConfig",
        default_size="small",
        description="Shield: flags commands of low density under a flow, and gives the nearest supported one.",
        aliases=("shield:flow_matching", "shield:flow-matching"),
        size_aliases=(("medium", "base"),),
    ),
    Family(
        name="diffusion_shield",
        module="worldline.models.shields.diffusion",
        model="DiffusionShield",
        config="DiffusionShieldConfig",
        default_size="small",
        description="Shield: the same with a diffusion model.",
        aliases=("shield:diffusion",),
        size_aliases=(("medium", "base"),),
    ),
    Family(
        name="quantile_shield",
        module="worldline.models.shields.quantile",
        model="QuantileShield",
        config="QuantileShieldConfig",
        default_size="small",
        description="Shield: flags returns that are unusual for state and horizon. The cheapest one.",
        aliases=("shield:quantile",),
        size_aliases=(("medium", "base"),),
    ),
    Family(
        name="udrl",
        module="worldline.models.udrl",
        model="UDRL",
        config="UDRLConfig",
        default_size="base",
        description="Upside-down RL: a policy that is told which return to reach, in how many steps.",
        aliases=("upside-down-rl",),
        size_aliases=(("medium", "base"),),
    ),
)


def families() -> dict[str, Family]:
    """Return every family by name: those of Worldline, then those that other distributions add.

    Raises:
        ConfigError: An installed distribution adds something that is not a family, or cannot be imported.
    """
    found = {family.name: family for family in FAMILIES}
    for entry in importlib.metadata.entry_points(group="worldline.families"):
        try:
            family = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"The model family {entry.name!r} ({entry.value}) cannot be loaded: {error}.") from error
        if not isinstance(family, Family):
            raise ConfigError(
                f"The entry point {entry.name!r} ({entry.value}) must be a worldline.registry.Family; "
                f"got {type(family).__name__}. Mend or uninstall the package that adds it."
            )
        found.setdefault(family.name, family)
    return found


def resolve(name: str) -> tuple[Family, str]:
    """Return the family and size that `name` means: "family:size", "family", an alias, "alias-size".

    An alias may have a colon of its own: "shield:quantile" is a family, "shield:quantile:base" one of its sizes.

    Raises:
        ConfigError: No such family or size; the message has the nearest ones.
    """
    known = families()
    by_name = {alias: family for family in known.values() for alias in (family.name, *family.aliases)}
    head, size = (name, "") if name in by_name or ":" not in name else name.rsplit(":", 1)
    if head not in by_name and not size:
        # "dreamer-small" is the alias of a family, a dash and the alias of a size
        stem, _, tail = head.rpartition("-")
        if stem in by_name:
            head, size = stem, tail
    if head not in by_name:
        raise ConfigError(f"No model family is called {shown(name)}. {nearest(name if ':' in head else head, by_name)}")
    family = by_name[head]
    size = dict(family.size_aliases).get(size, size) or family.default_size
    sizes = load(family, "SIZES")
    if size not in sizes and f"size{size}" in sizes:
        size = f"size{size}"
    if size not in sizes:
        raise ConfigError(f"{family.name} has no size {shown(size)}. {nearest(size, sizes)}")
    return family, size


def is_known(name: str) -> bool:
    """Return whether `resolve` finds a model of this name."""
    try:
        resolve(name)
    except ConfigError:
        return False
    return True


def load(family: Family, attribute: str) -> Any:
    """Return an attribute of the family's module, importing it now."""
    return getattr(importlib.import_module(family.module), attribute)
