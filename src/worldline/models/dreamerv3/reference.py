"""Parameters under the names and layouts of the reference implementation (danijar/dreamerv3).

Its kernels are `[in, out]`, ours `[out, in]`; its convolutions `[h, w, in, out]`, ours `[out, in, h, w]`; block-diagonal
kernels are alike. `tools/parity.py` uses this to hold Worldline against values that the reference computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldline.episode import Array
from worldline.errors import DataError
from worldline.models.dreamerv3.model import DreamerV3


def reference_names(model: DreamerV3) -> dict[str, str]:
    """Return the reference's name of every parameter and running statistic of `model`, by our name."""
    pairs = {
        "rssm.deter_in": ("dyn/dynin0", "dyn/dynin0norm"),
        "rssm.stoch_in": ("dyn/dynin1", "dyn/dynin1norm"),
        "rssm.action_in": ("dyn/dynin2", "dyn/dynin2norm"),
        "rssm.post_in": ("dyn/obs0", "dyn/obs0norm"),
    }
    single = {
        "rssm.hidden": "dyn/dynhid0",
        "rssm.hidden_norm": "dyn/dynhid0norm",
        "rssm.gates": "dyn/dyngru",
        "rssm.prior_out": "dyn/priorlogit",
        "rssm.post_out": "dyn/obslogit",
        "decoder.from_deter": "dec/sp0",
        "decoder.from_stoch.1": "dec/sp2",
        "decoder.space_norm": "dec/spnorm",
        "decoder.image_out": "dec/imgout",
    }
    pairs["decoder.from_stoch.0"] = ("dec/sp1", "dec/sp1norm")
    for layer in range(model.config.prior_layers):
        pairs[f"rssm.prior_mlp.{layer}"] = (f"dyn/prior{layer}", f"dyn/prior{layer}norm")
    for layer in range(model.config.encoder_layers):
        pairs[f"encoder.mlp.{layer}"] = (f"enc/mlp{layer}", f"enc/mlp{layer}norm")
    heads = {"reward": "rew", "continuation": "con", "actor": "pol", "value": "val", "slow_value": "slowval"}
    for ours, theirs in {**heads, "decoder": "dec"}.items():
        for layer in range(16):
            pairs[f"{ours}.mlp.{layer}"] = (f"{theirs}/mlp/linear{layer}", f"{theirs}/mlp/norm{layer}")
    outputs = {"reward": "logits", "continuation": "logit", "actor": "action/logits", "value": "logits"}
    for ours, theirs in {**outputs, "slow_value": "logits"}.items():
        single[f"{ours}.out"] = f"{heads[ours]}/head/{theirs}"
    for name in model.config.vectors:
        single[f"decoder.outputs.{name}"] = f"dec/vec/{name}/pred"
    if model.config.images:
        stages = model.encoder.layout.stages
        for stage in range(stages):
            single[f"encoder.convs.{stage}"] = f"enc/cnn{stage}"
            single[f"encoder.norms.{stage}"] = f"enc/cnn{stage}norm"
        for index, stage in enumerate(reversed(range(stages - 1))):
            single[f"decoder.convs.{index}"] = f"dec/conv{stage}"
            single[f"decoder.norms.{index}"] = f"dec/conv{stage}norm"
    for ours, (linear, norm) in pairs.items():
        single[f"{ours}.linear"], single[f"{ours}.norm"] = linear, norm
    parts = {"weight": "kernel", "bias": "bias", "scale": "scale"}
    result = {"return_low": "retnorm/lo/value", "return_high": "retnorm/hi/value"}
    for name, _ in model.named_parameters():
        module, _, part = name.rpartition(".")
        result[name] = f"{single[module]}/{parts[part]}"
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
