"""Parameters under the names and layouts of the reference implementation (danijar/dreamerv3).

Its kernels are `[in, out]`, ours `[out, in]`; its convolutions `[h, w, in, out]`, ours `[out, in, h, w]`;
block-diagonal kernels are alike. `tools/parity.py` uses this to hold ours against values that the reference computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldline.episode import Array
from worldline.errors import DataError
from worldline.models.dreamerv3.model import DreamerV3

# Layers that have one name there: a linear layer, a convolution, or a norm alone.
_SINGLE = {
    "rssm.hidden": "dyn/dynhid0",
    "rssm.hidden_norm": "dyn/dynhid0norm",
    "rssm.gates": "dyn/dyngru",
    "rssm.prior_out": "dyn/priorlogit",
    "rssm.post_out": "dyn/obslogit",
    "decoder.from_deter": "dec/sp0",
    "decoder.from_stoch.1": "dec/sp2",
    "decoder.space_norm": "dec/spnorm",
    "decoder.image_out": "dec/imgout",
    "reward.out": "rew/head/logits",
    "continuation.out": "con/head/logit",
    "actor.out": "pol/head/action/logits",
    "value.out": "val/head/logits",
    "slow_value.out": "slowval/head/logits",
}
# Dense layers: ours, the name of the linear layer there, that of the norm. {} is the layer's number.
_DENSE = (
    ("rssm.deter_in", "dyn/dynin0", "dyn/dynin0norm"),
    ("rssm.stoch_in", "dyn/dynin1", "dyn/dynin1norm"),
    ("rssm.action_in", "dyn/dynin2", "dyn/dynin2norm"),
    ("rssm.post_in", "dyn/obs0", "dyn/obs0norm"),
    ("rssm.prior_mlp.{}", "dyn/prior{}", "dyn/prior{}norm"),
    ("encoder.mlp.{}", "enc/mlp{}", "enc/mlp{}norm"),
    ("decoder.from_stoch.0", "dec/sp1", "dec/sp1norm"),
    ("decoder.mlp.{}", "dec/mlp/linear{}", "dec/mlp/norm{}"),
    ("reward.mlp.{}", "rew/mlp/linear{}", "rew/mlp/norm{}"),
    ("continuation.mlp.{}", "con/mlp/linear{}", "con/mlp/norm{}"),
    ("actor.mlp.{}", "pol/mlp/linear{}", "pol/mlp/norm{}"),
    ("value.mlp.{}", "val/mlp/linear{}", "val/mlp/norm{}"),
    ("slow_value.mlp.{}", "slowval/mlp/linear{}", "slowval/mlp/norm{}"),
)
_PARTS = {"weight": "kernel", "bias": "bias", "scale": "scale"}


def reference_names(model: DreamerV3) -> dict[str, str]:
    """Return the reference's name of every parameter and running statistic of `model`, by our name."""
    modules = dict(_SINGLE)
    config = model.config
    most_layers = max(config.prior_layers, config.encoder_layers, config.decoder_layers, config.reward_layers)
    most_layers = max(most_layers, config.continue_layers, config.policy_layers, config.value_layers)
    for ours, linear, norm in _DENSE:
        for layer in range(most_layers):
            modules[f"{ours.format(layer)}.linear"] = linear.format(layer)
            modules[f"{ours.format(layer)}.norm"] = norm.format(layer)
    modules |= {f"decoder.outputs.{index}": f"dec/vec/{name}/pred" for index, name in enumerate(config.vectors)}
    stages = model.encoder.layout.stages if config.images else 0
    for stage in range(stages):
        modules[f"encoder.convs.{stage}"], modules[f"encoder.norms.{stage}"] = f"enc/cnn{stage}", f"enc/cnn{stage}norm"
        # The decoder goes the other way, and its last stage is the output layer.
        step = stages - 2 - stage
        modules[f"decoder.convs.{step}"], modules[f"decoder.norms.{step}"] = f"dec/conv{stage}", f"dec/conv{stage}norm"
    result = {"return_low": "retnorm/lo/value", "return_high": "retnorm/hi/value"}
    for name, _ in model.named_parameters():
        module, _, part = name.rpartition(".")
        result[name] = f"{modules[module]}/{_PARTS[part]}"
    return result


def from_reference(model: DreamerV3, arrays: Mapping[str, Array]) -> None:
    """Copy the reference's parameters into `model`.

    Raises:
        DataError: A parameter is missing or of another shape.
    """
    state = model.state_dict()
    with torch.no_grad():
        for ours, theirs in reference_names(model).items():
            value = _to_ours(_read(model, arrays, ours, theirs), state[ours])
            if value.shape != state[ours].shape:
                raise DataError(
                    f"{theirs} has shape {tuple(value.shape)} in our layout; {ours} needs {tuple(state[ours].shape)}."
                )
            state[ours].copy_(value)


def to_reference(model: DreamerV3) -> dict[str, Array]:
    """Return the parameters of `model` under the reference's names and in its layouts."""
    result: dict[str, Array] = {}
    state = model.state_dict()
    for ours, theirs in reference_names(model).items():
        value = _to_theirs(state[ours].detach().cpu()).numpy()
        if ours.startswith("actor.out.") and not model.config.choices:
            mean, std = np.split(value, 2, axis=-1)
            result[theirs.replace("logits", "mean")] = mean
            result[theirs.replace("logits", "stddev")] = std
        else:
            result[theirs] = value
    return result


def _read(model: DreamerV3, arrays: Mapping[str, Array], ours: str, theirs: str) -> Tensor:
    names = [theirs]
    if ours.startswith("actor.out.") and not model.config.choices:
        names = [theirs.replace("logits", "mean"), theirs.replace("logits", "stddev")]
    if missing := [name for name in names if name not in arrays]:
        raise DataError(f"The reference's parameters lack {missing[0]!r}, which {ours} needs.")
    return torch.from_numpy(np.concatenate([np.atleast_1d(arrays[name]) for name in names], axis=-1))


def _to_ours(value: Tensor, target: Tensor) -> Tensor:
    if target.ndim == 0:
        return value.reshape(())
    if target.ndim == 2:
        return value.T
    return value.permute(3, 2, 0, 1) if target.ndim == 4 else value


def _to_theirs(value: Tensor) -> Tensor:
    if value.ndim == 2:
        return value.T
    return value.permute(2, 3, 1, 0) if value.ndim == 4 else value
