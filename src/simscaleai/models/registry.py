"""Models by SimScaleAI's names and arguments: Worldline's imitation policies, and those that users register."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from torch import nn

from simscaleai.models.imitation import STATE, ImitationModel
from worldline import registry
from worldline.create import create_model
from worldline.errors import ConfigError, nearest
from worldline.models.inputs import LANGUAGE

IMAGE = "image"  # the image, where there is one
_ARGUMENTS = ("state_dim", "action_dim", "hidden_dim", "n_layers", "image_size", "state_keys", "language_length")

ModelT = TypeVar("ModelT", bound=Callable[..., nn.Module])


@dataclasses.dataclass(frozen=True)
class _Family:
    """How a family's settings are called here, and what they are unless something is said."""

    width: str  # `hidden_dim`
    depth: str  # `n_layers`
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    language_length: int = 0


_FAMILIES: dict[str, _Family] = {
    "bc": _Family("units", "layers", {"action_type": "continuous", "normalization": "standard", "loss": "squared"}),
    "act": _Family("size", "layers"),
    "diffusion_policy": _Family("mlp_units", "mlp_blocks"),
    "flow_policy": _Family("mlp_units", "mlp_blocks"),
    "vla": _Family("size", "layers", image_size=(128, 128), language_length=64),
}


class ModelRegistry:
    """Models by name. A model is a module with `model(batch) -> {"loss": ..., "predicted_actions": ..., ...}`."""

    _registered: ClassVar[dict[str, Callable[..., nn.Module]]] = {}

    @classmethod
    def create(cls, name: str, **kwargs: Any) -> nn.Module:
        """Build a model.

        The policies "bc", "act", "diffusion_policy", "flow_policy" and "vla" take the arguments of `create_policy`;
        registered models those of their own.

        Raises:
            ConfigError: An unknown name or argument; the message has the nearest one.
        """
        if name in cls._registered:
            return cls._registered[name](**kwargs)
        if name not in _FAMILIES:
            raise ConfigError(f"No model is called {name!r}. {nearest(name, cls.list())}")
        model = create_policy(name, **kwargs)
        model.built_as = name, kwargs
        return model

    @classmethod
    def register(cls, name: str, model: ModelT | None = None) -> Any:
        """Let `create(name, ...)` call `model(...)`: a class, or any function that returns a module.

        Without `model`, return a decorator: `@ModelRegistry.register("mine")`.

        Raises:
            ConfigError: The name is taken.
        """
        if model is None:
            return lambda decorated: cls.register(name, decorated)
        if cls._registered.get(name, model) is not model or name in _FAMILIES:
            raise ConfigError(f"There is a model {name!r} already. Choose another name.")
        cls._registered[name] = model
        return model

    @classmethod
    def list(cls) -> list[str]:
        """Return all names."""
        return [*_FAMILIES, *cls._registered]


def create_policy(
    name: str,
    *,
    state_dim: int | None = None,
    action_dim: int,
    hidden_dim: int | None = None,
    n_layers: int | None = None,
    image_size: int | Sequence[int] | Mapping[str, int | Sequence[int]] | None = None,
    state_keys: Sequence[str] | None = None,
    language_length: int | None = None,
    **settings: Any,
) -> ImitationModel:
    """Build one of Worldline's imitation policies.

    Args:
        name: Its family.
        state_dim: How many numbers an observation has, images and text apart; None is a policy without them.
        action_dim: How many numbers an action has, in [-1, 1].
        hidden_dim: Width of its network.
        n_layers: Depth of its network.
        image_size: Height and width of the image "image", or one number for both; those of each image by its name,
            where there are several cameras; 0 is a policy without. By default only "vla" has an image, of 128 x 128.
        state_keys: Names of the observations that those are; others are passed over. None: all but images.
        language_length: Bytes of an instruction that are read; 0 is a policy without. By default only "vla" reads 64.
        **settings: Further settings of the family, by Worldline's names.

    Raises:
        ConfigError: An unknown setting, or one that cannot be.
    """
    for key in settings:  # the families know their settings, not these arguments
        if near := difflib.get_close_matches(key, _ARGUMENTS, n=1, cutoff=0.85):
            raise ConfigError(f"{name} has no argument {key!r}. Did you mean {near[0]!r}?")
    family = _FAMILIES[name]
    shapes: dict[str, tuple[int, ...]] = {} if state_dim is None else {STATE: (state_dim,)}
    sizes = family.image_size if image_size is None else image_size
    for key, size in (sizes if isinstance(sizes, Mapping) else {IMAGE: sizes}).items():
        if size:
            shapes[key] = (3, *_height_and_width(key, size))
    length = family.language_length if language_length is None else language_length
    if length:
        shapes[LANGUAGE] = (length,)
    if not shapes:
        raise ConfigError(f"{name} would observe nothing. Give it state_dim, image_size or language_length.")
    network = {family.width: hidden_dim, family.depth: n_layers}
    chosen = {key: value for key, value in network.items() if value is not None}
    policy = create_model(name, obs_shape=shapes, action_dim=action_dim, **{**family.defaults, **chosen, **settings})
    return ImitationModel(policy, state_keys)


def _height_and_width(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    sizes = [size, size] if isinstance(size, int) else list(size)
    if len(sizes) != 2 or not all(isinstance(number, int) and number > 0 for number in sizes):
        raise ConfigError(f"image_size of {name!r} must be one number or (height, width), in pixels; got {size!r}.")
    return sizes[0], sizes[1]


def describe(name: str) -> str:
    """Return what a model is, in a sentence."""
    known = registry.families()
    return known[name].description if name in known else "Registered by the user."


def is_policy(name: str) -> bool:
    """Return whether a model is one of Worldline's policies, with the arguments of `create_policy`."""
    return name in _FAMILIES


def reads_images(name: str) -> bool:
    """Return whether a policy has images unless something else is said."""
    return _FAMILIES[name].image_size is not None
