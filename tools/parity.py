"""Hold a model against values that its reference implementation computed.

Usage: python tools/parity.py dreamerv3 DIR
       python tools/parity.py tdmpc2 DIR

DIR has `config.json` and `io.npz` (inputs and outputs). Prints one line for each quantity, its relative error
|ours - theirs| / |theirs| over the whole array; exits with 1 if one is beyond its bound.

DreamerV3 also has `params_{before,after_1,after_3}.npz`; 1e-5 for losses, features and tokens, 1e-3 for parameters
after optimiser steps (LaProp's first steps are nearly lr * sign(gradient), so that elements whose gradient is rounding
error may go the other way), whose median element must agree to 1e-5. For TD-MPC2 see `parity_tdmpc2.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity_report import VALUE_BOUND, Report
from parity_tdmpc2 import compare_tdmpc2
from worldline.create import create_model
from worldline.models.dreamerv3 import DreamerV3
from worldline.models.dreamerv3.reference import from_reference, to_reference
from worldline.models.dreamerv3.rows import Rows
from worldline.training.optim import build_optimizer

PARAMETER_BOUND = 1e-3


def main(arguments: list[str]) -> int:
    """Compare and return the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("dreamerv3", "tdmpc2") or not Path(arguments[1]).is_dir():
        print(__doc__)
        return 2
    directory, report = Path(arguments[1]), Report()
    if arguments[0] == "tdmpc2":
        compare_tdmpc2(directory, report)
        return report.finish()
    # XLA on a CPU takes numbers below 1e-38 for zero, and so do the second moments of the reference's LaProp.
    torch.set_flush_denormal(True)
    compare_dreamerv3(directory, report)
    return report.finish()


def compare_dreamerv3(directory: Path, report: Report) -> None:
    """Compare losses, features and three optimiser steps."""
    reference = json.loads((directory / "config.json").read_text())
    io = dict(np.load(directory / "io.npz", allow_pickle=False))
    model, rows = build_model(reference, io), build_rows(io, reference["num_actions"])
    from_reference(model, np.load(directory / "params_before.npz", allow_pickle=False))

    range_before = model.return_low.clone(), model.return_high.clone()
    elements, metrics = model.loss_elements(rows, deterministic=True)
    seen = model.observe_rows(rows, deterministic=True)
    model.return_low.copy_(range_before[0])
    model.return_high.copy_(range_before[1])
    for name, (value, _) in elements.items():
        report.compare(f"loss/{name}", value.detach().T, io[f"out/loss/{name}"])
    report.compare("tokens", seen.tokens.detach().transpose(0, 1), io["out/tokens"])
    state = {"deter": seen.state.deter, "stoch": seen.state.stoch, "logit": seen.logits}
    for name, value in state.items():
        theirs = io[f"out/repfeat/{name}"]
        report.compare(f"repfeat/{name}", value.detach().transpose(0, 1).reshape(theirs.shape), theirs)
    statistics = {"adv": "advantage", "adv_mag": "advantage_magnitude", "tar": "imagined_return"}
    for theirs_name, ours_name in {**statistics, "ent/action": "policy_entropy"}.items():
        report.compare(f"metric/{theirs_name}", metrics[ours_name], io[f"out/metric/{theirs_name}"])
    compare_updates(model, rows, reference, directory, report)


def compare_updates(model: DreamerV3, rows: Rows, reference: dict[str, Any], directory: Path, report: Report) -> None:
    """Take three optimiser steps on the same batch, comparing losses, gradient norms and parameters."""
    optimizer = build_optimizer(model, model.param_groups(), weight_decay=0.0, grad_clip=0.0)
    for step, theirs in enumerate(reference["steps"]):
        optimizer.zero_grad()
        loss = model.loss_of_rows(rows, deterministic=True)["loss"]
        loss.backward()
        norms = optimizer.measure()
        optimizer.step(reference["lr"], norms)
        model.after_update()
        report.compare(f"step {step + 1} loss", loss.detach(), theirs["opt/loss"], VALUE_BOUND if step == 0 else 1e-3)
        bound = 1e-4 if step == 0 else 1e-3
        report.compare(f"step {step + 1} gradient norm", norms.total, theirs["opt/grad_norm"], bound)
        path = directory / f"params_after_{step + 1}.npz"
        if path.is_file():
            compare_parameters(to_reference(model), dict(np.load(path, allow_pickle=False)), step + 1, report)


def compare_parameters(ours: dict[str, Any], theirs: dict[str, Any], step: int, report: Report) -> None:
    """Compare all parameters after a step: their names, each one, and the median element of all."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    flat = [np.concatenate([np.ravel(arrays[name]) for name in sorted(theirs)]) for arrays in (ours, theirs)]
    report.compare(f"after {step}: all parameters", flat[0], flat[1], PARAMETER_BOUND)
    report.compare_median(f"after {step}: median element", flat[0], flat[1])


def build_model(reference: dict[str, Any], io: dict[str, np.ndarray]) -> DreamerV3:
    """Build the model that the reference's settings describe."""
    agent = reference["agent"]
    model = create_model(
        "dreamerv3:size1m",
        obs_shape={name: io[name].shape[2:] for name in ("state", "image") if name in io},
        action_dim=reference["num_actions"],
        action_type="discrete" if reference["act"] == "disc" else "continuous",
        **{name: reference[name] for name in ("deter", "hidden", "stoch", "classes", "units", "depth", "blocks")},
        imagination_horizon=reference["imag_length"],
        prior_layers=agent["dyn.rssm.imglayers"],
        encoder_layers=agent["enc.simple.layers"],
        decoder_layers=agent["dec.simple.layers"],
        reward_layers=agent["rewhead.layers"],
        continue_layers=agent["conhead.layers"],
        policy_layers=agent["policy.layers"],
        value_layers=agent["value.layers"],
        num_bins=agent["value.bins"],
        unimix=agent["dyn.rssm.unimix"],
        free_nats=agent["dyn.rssm.free_nats"],
        discount_horizon=agent["horizon"],
        return_lambda=agent["imag_loss.lam"],
        entropy_scale=agent["imag_loss.actent"],
        agc=agent["opt.agc"],
        eps=agent["opt.eps"],
    )
    assert isinstance(model, DreamerV3)
    return model.train()


def build_rows(io: dict[str, np.ndarray], num_actions: int) -> Rows:
    """Return the inputs, which have rewards at arrival already."""
    steps = {name: torch.from_numpy(array).transpose(0, 1) for name, array in io.items() if not name.startswith("out/")}
    everywhere = torch.ones_like(steps["is_first"])
    actions = steps["prev_action"]
    if not actions.is_floating_point():
        actions = torch.nn.functional.one_hot(actions.long(), num_actions).float()
    return Rows(
        obs={name: steps[name] for name in ("state", "image") if name in steps},
        prev_actions=actions,
        rewards=steps["reward"],
        is_first=steps["is_first"],
        is_last=steps["is_last"],
        is_terminal=steps["is_terminal"],
        valid=everywhere,
        obs_mask=everywhere,
        arrival_mask=everywhere,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
