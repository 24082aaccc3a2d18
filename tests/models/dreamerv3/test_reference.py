from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.dreamerv3.tiny_dreamer import make_model
from worldline.errors import DataError
from worldline.models.dreamerv3.reference import from_reference, reference_names, to_reference

SETTINGS: list[dict[str, Any]] = [
    {},
    {"obs_shape": {"image": (16, 16, 3), "state.x": (5,), "type": (1,)}, "action_type": "continuous"},
    {"prior_layers": 3, "policy_layers": 1, "encoder_layers": 2},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_there_and_back(settings: dict[str, Any]):
    model, other = make_model(**settings), make_model(seed=1, **settings)
    model.return_high.fill_(3.0)
    arrays = to_reference(model)
    from_reference(other, arrays)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_parameter_has_a_name_of_its_own(settings: dict[str, Any]):
    model = make_model(**settings)
    names = reference_names(model)
    assert names.keys() == model.state_dict().keys()
    assert len(set(names.values())) == len(names)


def test_layouts():
    """Kernels are [in, out] there; convolutions [h, w, in, out]; block-diagonal kernels as ours."""
    arrays = to_reference(make_model(obs_shape={"image": (20, 36, 3), "state": (5,)}))
    assert arrays["enc/mlp0/kernel"].shape == (5, 16)
    assert arrays["enc/cnn0/kernel"].shape == (5, 5, 3, 4)
    assert arrays["dec/imgout/kernel"].shape == (5, 5, 4, 3)
    assert arrays["dyn/dyngru/kernel"].shape == (4, 8, 24)
    assert arrays["dec/vec/state/pred/kernel"].shape == (16, 5)
    # The decoder counts its stages the other way round.
    assert [arrays[f"dec/conv{stage}/kernel"].shape[2:] for stage in (0, 1)] == [(6, 4), (8, 6)]


def test_continuous_policies_have_two_outputs_there():
    arrays = to_reference(make_model(action_type="continuous", action_dim=3))
    assert arrays["pol/head/action/mean/kernel"].shape == (16, 3)
    assert arrays["pol/head/action/stddev/bias"].shape == (3,)
    assert "pol/head/action/logits/kernel" not in arrays


@pytest.mark.parametrize("settings", [{}, {"action_type": "continuous"}])
def test_what_is_missing_or_of_another_shape_is_named(settings: dict[str, Any]):
    model = make_model(**settings)
    arrays = to_reference(model)
    name = next(name for name in arrays if name.startswith("pol/head/action") and name.endswith("kernel"))
    with pytest.raises(DataError, match=f"lack '{name}', which actor.out.weight needs"):
        from_reference(model, {key: value for key, value in arrays.items() if key != name})
    arrays["rew/head/logits/kernel"] = np.zeros((3, 41), np.float32)
    with pytest.raises(
        DataError, match=r"rew/head/logits/kernel has shape \(41, 3\).*reward.out.weight needs \(41, 16\)"
    ):
        from_reference(model, arrays)
