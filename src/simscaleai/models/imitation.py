"""Worldline's policies over SimScaleAI's dicts: `{"observations": {...}, "actions": ..., "language": [...]}`."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.batch import Batch, Obs, WindowSpec
from worldline.data.store import is_obs
from worldline.device import device_of
from worldline.errors import DataError
from worldline.models.base import Model
from worldline.models.chunks import ChunkConfig, ChunkPolicy
from worldline.models.inputs import LANGUAGE
from worldline.models.predict import as_tensor, predict
from worldline.protocols import Fitted, Policy
from worldline.statistics import ColumnStatistics, flat_statistics

STATE = "state"  # what the policy calls all vectors together
_OBSERVATIONS, _ACTIONS, _MASK = "observations", "actions", "mask"


class ImitationModel(nn.Module):
    """A policy that learns actions from observations.

    All numbers of a batch are one vector to it, "state": those of each observation are put side by side in the order of
    their names. Images are `[C, H, W]` in [0, 1], or uint8 in either layout.

    Attributes:
        policy: Worldline's model.
        obs_shapes: What it observes: "state", each image, and "language", the bytes of an instruction.
        built_as: Its name in `ModelRegistry`, and the arguments that it was created with; None where it was not.

    Args:
        policy: Worldline's model.
        state_keys: The vectors that "state" is made of, others are passed over; None: all there are.
    """

    def __init__(self, policy: Model, state_keys: Sequence[str] | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.obs_shapes: dict[str, tuple[int, ...]] = dict(policy.config.obs_shapes)
        self.built_as: tuple[str, Mapping[str, Any]] | None = None
        self._state_keys = None if state_keys is None else frozenset(state_keys)
        self._vectors: tuple[str, ...] | None = None  # names of the vectors of the first batch that it learnt from

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images that it observes; None where it observes none."""
        return next((shape[-2:] for shape in self.obs_shapes.values() if len(shape) == 3), None)

    @property
    def windows(self) -> WindowSpec:
        """Which windows to learn from: `TrajectoryDataset(path, seq_len=model.seq_len, windows=model.windows)`."""
        return dataclasses.replace(self.policy.windows, closing_row=False)

    @property
    def seq_len(self) -> int:
        """How many steps a window of the policy has."""
        return self.policy.config.horizon if isinstance(self.policy, ChunkPolicy) else 1

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", what else the policy reports, and "predicted_actions", shaped as `batch["actions"]`.

        The latter are what the policy would do at each step if the episode began there; they carry no gradients.

        Raises:
            DataError: The batch lacks something that the model was built for, or has other shapes.
        """
        return {**self.training_losses(batch), "predicted_actions": self._predicted(batch)}

    def training_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the same without "predicted_actions"."""
        return self.policy.compute_loss(self._windows(batch))

    def after_update(self) -> None:
        """Do what follows each optimiser step."""
        self.policy.after_update()

    @property
    def is_fitted(self) -> bool:
        """Whether the model has the statistics of its data, or wants none."""
        return self.policy.is_fitted if isinstance(self.policy, Fitted) else True

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the statistics of columns "obs.KEY" and "actions"; the trainer does so before the first step.

        Raises:
            DataError: The vectors have more or fewer numbers than the model was built for.
        """
        if not isinstance(self.policy, Fitted):
            return
        named = {"actions": statistics["actions"]}
        if STATE in self.obs_shapes:
            names = {STATE if name == "obs" else name.removeprefix("obs."): name for name in statistics if is_obs(name)}
            vectors = {name: statistics[names[name]] for name in sorted(names) if self._is_in_state(name)}
            sizes = {name: column.mean.size for name, column in vectors.items()}
            if sum(sizes.values()) != self.obs_shapes[STATE][0]:
                raise DataError(_other_vectors(sizes, self.obs_shapes[STATE][0], None))
            named[f"obs.{STATE}"] = flat_statistics(list(vectors.values()))
        self.policy.fit(named)

    def act(
        self,
        obs: Obs,
        state: Any = None,
        *,
        is_first: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Any]:
        """Choose actions `[N, A]` for N environments; see `worldline.protocols.Policy`."""
        policy = self.policy
        assert isinstance(policy, Policy)
        return policy.act(self._obs(obs, leading=1), state, is_first=is_first, deterministic=deterministic)

    def predict(self, obs: Any) -> Any:
        """Return the action for one observation, or actions for several, as if an episode began there.

        Args:
            obs: A dict of arrays or tensors (and of texts), or the state alone; of one observation, or with a first
                dimension of several. One instruction may stand for all of several.

        Returns:
            `[A]` or `[N, A]`, an array if `obs` is of arrays and a tensor if it is of tensors.

        Raises:
            DataError: Something that the model was built for is missing, or of another shape.
        """
        named = obs if isinstance(obs, Mapping) else {STATE: obs}
        numbers = [value for value in named.values() if not _is_text(value)]
        actions = predict(self.policy, self._obs(named, leading=self._num_leading(named)))
        assert isinstance(actions, Tensor)
        return actions if any(isinstance(value, Tensor) for value in numbers) else actions.cpu().numpy()

    def _predicted(self, batch: Mapping[str, Any]) -> Tensor:
        actions = batch[_ACTIONS]
        obs = self._obs(_observed(batch), leading=actions.ndim - 1)
        flat = {name: value.flatten(0, actions.ndim - 2) for name, value in obs.items()}
        found = predict(self.policy, flat)
        assert isinstance(found, Tensor)
        return found.view(*actions.shape)

    def _windows(self, batch: Mapping[str, Any]) -> Batch:
        """Return the batch as windows `[B, T]` of real steps; of samples without time, T is 1."""
        if _ACTIONS not in batch or _OBSERVATIONS not in batch:
            raise DataError(f'A batch needs "{_OBSERVATIONS}" and "{_ACTIONS}"; it has {sorted(map(str, batch))}.')
        actions = batch[_ACTIONS].float()
        if actions.ndim not in (2, 3):
            raise DataError(f"actions must be [B, A] or [B, T, A]; got {list(actions.shape)}.")
        observed = _observed(batch)
        obs = self._obs(observed, leading=actions.ndim - 1)
        if self._vectors is None:
            self._vectors = tuple(self._numbers(observed, actions.ndim - 1)) if STATE in self.obs_shapes else ()
            self._warn_of_short_samples(actions.shape[1] if actions.ndim == 3 else 1)
        if actions.ndim == 2:
            actions, obs = actions[:, None], {name: value[:, None] for name, value in obs.items()}
        whole = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device)
        mask = batch.get(_MASK, whole)
        if isinstance(self.policy, ChunkPolicy):
            before, after = _padding(mask.shape[1], self.policy.config)
            actions, mask = _padded(actions, before, after), _padded(mask, before, after)
            obs = {name: _padded(value, before, after) for name, value in obs.items()}
        return Batch(
            obs=obs,
            actions=actions,
            rewards=torch.zeros_like(actions[..., 0]),
            terminations=torch.zeros_like(mask),
            is_first=torch.zeros_like(mask),
            step_mask=mask,
            obs_mask=mask[:, : next(iter(obs.values())).shape[1]],
        )

    def _warn_of_short_samples(self, num_rows: int) -> None:
        """Warn where actions are carried out that samples of so many steps do not teach."""
        if not isinstance(self.policy, ChunkPolicy):
            return
        config = self.policy.config
        used = config.num_executed if config.ensemble_rate is None else config.num_planned
        learnt = num_rows + _padding(num_rows, config)[0] - config.num_obs + 1
        if learnt < used:
            warnings.warn(
                f"{self.policy.family} uses {used} actions of each chunk, but samples of {num_rows} steps teach it "
                f"{learnt}. Learn from TrajectoryDataset(path, seq_len=model.seq_len, windows=model.windows).",
                stacklevel=2,
            )

    def _obs(self, obs: Any, *, leading: int) -> dict[str, Tensor]:
        """Return what the policy observes, each `[*leading, *shape]`."""
        named = dict(obs) if isinstance(obs, Mapping) else {STATE: obs}
        device = device_of(self)
        found: dict[str, Tensor] = {}
        for name, shape in self.obs_shapes.items():
            if name == STATE:
                found[name] = self._state(named, shape[0], leading=leading, device=device)
            elif name != LANGUAGE:
                found[name] = _image(named, name, shape, device=device)
        if LANGUAGE in self.obs_shapes:
            text = _text(named, self.obs_shapes[LANGUAGE][0], device=device)
            rows = next((value.shape[:leading] for value in found.values()), text.shape[:-1])
            found[LANGUAGE] = _for_each(text, rows)
        return found

    def _is_in_state(self, name: str) -> bool:
        if self._state_keys is not None:
            return name in self._state_keys
        return name == STATE or name not in {*self.obs_shapes, LANGUAGE}

    def _state(self, named: Mapping[str, Any], size: int, *, leading: int, device: torch.device) -> Tensor:
        vectors = self._numbers(named, leading)
        sizes = {name: math.prod(value.shape[leading:]) for name, value in vectors.items()}
        names = tuple(vectors)
        if sum(sizes.values()) != size or (names != (STATE,) and self._vectors not in (None, names)):
            raise DataError(_other_vectors(sizes, size, self._vectors))
        rows = [value.to(device).float() for value in vectors.values()]
        return torch.cat([row.flatten(leading) if row.ndim > leading else row[..., None] for row in rows], -1)

    def _numbers(self, named: Mapping[str, Any], leading: int) -> dict[str, Tensor]:
        """Return all that is in the state, by name, each `[*leading, *shape]`: what has 3 dimensions is an image."""
        chosen = [name for name in sorted(named) if self._is_in_state(name) and not _is_text(named[name])]
        if not chosen and STATE in named:  # what the names of vectors stand for
            chosen = [STATE]
        vectors = {name: as_tensor(named[name]) for name in chosen}
        return {name: value for name, value in vectors.items() if 0 <= value.ndim - leading <= 2}

    def _num_leading(self, named: Mapping[str, Any]) -> int:
        """Return how many dimensions come before those of an observation: 0 where there is one, 1 where several."""
        for name, shape in self.obs_shapes.items():
            if name != STATE and name in named and not _is_text(named[name]):
                return int(np.ndim(named[name])) - len(shape)
        vectors = self._numbers(named, 0), self._numbers(named, 1)
        sizes = [sum(math.prod(value.shape[leading:]) for value in vectors[leading].values()) for leading in (0, 1)]
        # Both fit only where one is a row of the other; a dimension of rows is what all have.
        likely = int(min((value.ndim for part in vectors for value in part.values()), default=0) > 1)
        is_other = sizes[likely] != self.obs_shapes.get(STATE, (0,))[0] == sizes[1 - likely]
        return 1 - likely if is_other else likely


def _padding(num_rows: int, config: ChunkConfig) -> tuple[int, int]:
    """Return how many rows that are not real to put before and behind a window, so that it has a whole chunk.

    The present of a chunk is the last of the `num_obs` rows that it is predicted from, so that one must be real.
    """
    before = max(0, config.num_obs - num_rows)
    return before, max(0, config.horizon - num_rows - before)


def _padded(rows: Tensor, before: int, after: int) -> Tensor:
    """Return `rows [B, T, ...]` with rows of zeros before and behind them."""
    return F.pad(rows, (*(0,) * (2 * (rows.ndim - 2)), before, after))


def _observed(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the observations of a batch, and its texts among them."""
    observations = batch[_OBSERVATIONS]
    named = dict(observations) if isinstance(observations, Mapping) else {STATE: observations}
    return named | ({LANGUAGE: batch[LANGUAGE]} if LANGUAGE in batch else {})


def _other_vectors(sizes: Mapping[str, int], size: int, known: Sequence[str] | None) -> str:
    listed = ", ".join(f"{name} [{width}]" for name, width in sizes.items()) or "none"
    message = f"The model was built for vectors of {size} numbers together; got {sum(sizes.values())}: {listed}. "
    if not sizes:
        return message + "Give it those that it was built for; its state_keys are their names, if it has any."
    if known is None:
        return message + f"Build it with state_dim={sum(sizes.values())}, or choose the observations by obs_keys."
    missing, unknown = sorted(set(known) - sizes.keys()), sorted(sizes.keys() - set(known))
    lacks = f"Missing: {', '.join(missing) or 'none'}. Not known: {', '.join(unknown) or 'none'}. "
    return message + lacks + f"It has learnt from {', '.join(known)}; give it those."


def _image(named: Mapping[str, Any], name: str, shape: tuple[int, ...], *, device: torch.device) -> Tensor:
    """Return images in [0, 255] in the layout of `shape`."""
    if name not in named:
        raise DataError(f"The model was built for images {name!r} {shape}; got {sorted(named)}.")
    image = as_tensor(named[name]).to(device)
    if image.is_floating_point():
        image = image * 255.0
    found = tuple(image.shape[-3:])
    if found != shape:
        if found == (*shape[1:], shape[0]):
            return image.movedim(-1, -3)
        raise DataError(f"Images {name!r} must be {shape}; got {found}. Build the model for those, or resize them.")
    return image


def _text(named: Mapping[str, Any], length: int, *, device: torch.device) -> Tensor:
    """Return a text as bytes `[L]`, or several as `[B, L]`, cut off at L; bytes stay what they are."""
    texts: Any = named.get(LANGUAGE)
    if isinstance(texts, str):
        return _text({LANGUAGE: [texts]}, length, device=device)[0]
    if _is_text(texts):
        rows = np.zeros((len(texts), length), dtype=np.uint8)
        for row, text in zip(rows, texts, strict=True):
            encoded = str(text).encode()[:length]
            row[: len(encoded)] = np.frombuffer(encoded, dtype=np.uint8)
        return torch.from_numpy(rows).to(device)
    if isinstance(texts, Tensor | np.ndarray):  # bytes already
        found = as_tensor(texts).to(device)
        return F.pad(found, (0, length - found.shape[-1]))
    got = type(texts).__name__ if LANGUAGE in named else f"only {', '.join(sorted(named))}"
    raise DataError(f'The model reads instructions. Give it "{LANGUAGE}", a text for each sample; got {got}.')


def _for_each(text: Tensor, rows: Sequence[int]) -> Tensor:
    """Return instructions `[*rows, L]`, of which there is one for all, `[L]`, or one for each window, `[B, L]`."""
    given = text.shape[:-1]
    if tuple(given) != tuple(rows[: len(given)]):
        raise DataError(
            f"Instructions are {list(given)}, observations {list(rows)}. Give one for all, or one for each."
        )
    between = (1,) * (len(rows) - len(given))
    return text.reshape(*given, *between, text.shape[-1]).expand(*rows, -1)


def _is_text(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "U" and value.ndim == 1
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(item, str) for item in value))
