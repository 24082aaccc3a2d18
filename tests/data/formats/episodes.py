"""Random episodes of every kind, and how to compare them bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from worldline.data.sampling import EpisodeSampler
from worldline.episode import Episode, named_obs

KINDS = {
    "vector": ((3,), np.float32),
    "double": ((2,), np.float64),
    "scalar": ((), np.float32),
    "image": ((4, 5, 3), np.uint8),
    "bytes": ((7,), np.uint8),
    "whole": ((2, 2), np.int64),
    "flags": ((2,), np.bool_),
}
ACTIONS: dict[str, tuple[int, tuple[int, ...]]] = {
    "continuous": (2, ()),
    "one": (1, ()),
    "discrete": (3, (3,)),
    "several": (5, (2, 3)),
}


@st.composite
def made_of(draw: Any, *, plain: bool | None = None) -> dict[str, Any]:
    """Draw what `make` makes episodes of."""
    is_plain = draw(st.booleans()) if plain is None else plain
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=1 if is_plain else 3, unique=True))
    ends = st.tuples(st.integers(1, 9), st.booleans(), st.booleans(), st.booleans())
    return {
        "kinds": kinds,
        "is_plain": is_plain,
        "actions": draw(st.sampled_from(list(ACTIONS))),
        "ends": draw(st.lists(ends, min_size=1, max_size=5)),
        "languages": draw(st.lists(st.sampled_from([None, "push the red cube", "größer \x7f\n", ""]), max_size=3)),
        "seed": draw(st.integers(0, 1 << 16)),
    }


def make(
    *,
    kinds: list[str],
    is_plain: bool,
    actions: str,
    ends: list[tuple[int, bool, bool, bool]],
    languages: list[str | None],
    seed: int,
) -> tuple[list[Episode], dict[str, Any]]:
    """Return episodes, and what a buffer is to be told of them."""
    generator = np.random.default_rng(seed)
    action_dim, sizes = ACTIONS[actions]

    def some(kind: str, *leading: int) -> Any:
        shape, dtype = KINDS[kind]
        numbers = generator.standard_normal((*leading, *shape)) * 100
        return (numbers > 0) if dtype is np.bool_ else numbers.astype(np.uint8 if dtype is np.uint8 else dtype)

    episodes = []
    for number, (steps, terminated, truncated, has_final_obs) in enumerate(ends):
        obs = {kind: some(kind, steps) for kind in kinds}
        final = {kind: some(kind) for kind in kinds}
        taken: Any = generator.standard_normal((steps, action_dim)).astype(np.float32)
        if sizes:
            taken = np.stack([generator.integers(0, size, steps) for size in sizes], axis=1)
        language = languages[number] if number < len(languages) else None
        meta = {"seed": number} if language is None else {"seed": number, "language": language}
        episodes.append(
            Episode(
                obs=obs[kinds[0]] if is_plain else obs,
                actions=taken,
                rewards=generator.standard_normal(steps).astype(np.float32),
                terminated=terminated,
                truncated=truncated,
                final_obs=(final[kinds[0]] if is_plain else final) if has_final_obs else None,
                meta=meta if number else {},
            )
        )
    dtypes: Any = {kind: KINDS[kind][1] for kind in kinds}
    told = {"action_dim": action_dim, "action_sizes": sizes, "obs_dtype": dtypes[kinds[0]] if is_plain else dtypes}
    return episodes, told


def assert_equal_episodes(got: EpisodeSampler, expected: EpisodeSampler) -> None:
    """Compare bit by bit."""
    assert got.spec == expected.spec
    assert got.num_episodes == expected.num_episodes
    for one, other in zip(got.episodes(), expected.episodes(), strict=True):
        assert (one.terminated, one.truncated, dict(one.meta)) == (other.terminated, other.truncated, dict(other.meta))
        pairs = [(one.actions, other.actions), (one.rewards, other.rewards)]
        names = named_obs(other.obs)
        pairs += [(named_obs(one.obs)[name], names[name]) for name in names]
        assert (one.final_obs is None) == (other.final_obs is None)
        if other.final_obs is not None and one.final_obs is not None:
            finals = named_obs(other.final_obs)
            pairs += [(named_obs(one.final_obs)[name], finals[name]) for name in finals]
        for a, b in pairs:
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()
