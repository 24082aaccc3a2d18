"""Hold TD-MPC2 against values that the official implementation computed; see `parity.py`.

DIR has `config.json`, `io.npz` (inputs and outputs) and `checkpoint.pt`, `checkpoint_old_api.pt` or both: the layouts
of the official checkpoints, each of which is loaded and compared. At most 1e-5 for outputs and losses, 1e-4 for
gradient norms and the values of plans. Where there are more than two Qs, the official code draws two of them at random;
the pair that agrees best with what was recorded is the one that is compared.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity_report import VALUE_BOUND, Report
from worldline.models.tdmpc2 import TDMPC2, State
from worldline.models.tdmpc2.losses import rollout, td_targets
from worldline.models.tdmpc2.segments import Segments
from worldline.planning import sequence_values

GRADIENT_BOUND = 1e-4
INPUTS = {"obs", "actions", "rewards", "terminated", "plan_candidates"}
CHECKPOINTS = ("checkpoint.pt", "checkpoint_old_api.pt")


def compare_tdmpc2(directory: Path, report: Report) -> None:
    """Compare every output, loss and gradient norm, for each checkpoint that is there."""
    reference = json.loads((directory / "config.json").read_text())
    io = dict(np.load(directory / "io.npz", allow_pickle=False))
    found = [name for name in CHECKPOINTS if (directory / name).is_file()]
    if not found:
        sys.exit(f"{directory} has neither {' nor '.join(CHECKPOINTS)}.")
    for name in found:
        model = TDMPC2.from_official(directory / name, **settings_of(reference))
        compare_outputs(model, io, report, prefix=f"{Path(name).stem}: ")


def settings_of(reference: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that shapes do not tell."""
    discount = reference["discount"]
    names = {"rho": "rho", "horizon": "horizon"}
    names |= {f"{part}_scale": f"{part}_coef" for part in ("consistency", "reward", "value", "termination")}
    names |= {"simplex": "simnorm_dim", "log_std_min": "log_std_min", "log_std_max": "log_std_max"}
    assert reference["vmin"] == -reference["vmax"], "bins must be symmetric"
    return {ours: reference[theirs] for ours, theirs in names.items()} | {
        "symlog_limit": reference["vmax"],
        "episodic": bool(reference["episodic"]),
        "discount_min": discount,
        "discount_max": discount,
    }


def compare_outputs(model: TDMPC2, io: dict[str, np.ndarray], report: Report, *, prefix: str) -> None:
    """Compare one model."""
    inputs = {name: torch.from_numpy(array) for name, array in io.items()}
    segments = segments_of(inputs, model)
    latents = model.net.latents({"obs": inputs["obs"].flatten(0, 1)}, None).unflatten(0, inputs["obs"].shape[:2])
    states = rollout(model.net, segments)
    joined = model.net.joined(states[:-1], inputs["actions"], task=None)
    reward_logits, q_logits = model.net.reward(joined), model.net.q(joined)
    mean, log_std = model.net.policy.normal(model.net.policy(states))
    pair = best_pair(
        model, lambda pair: td_targets(model.net, segments, latents[1:], deterministic=True, pair=pair), io["td_target"]
    )
    found: dict[str, Tensor] = {
        "encode": latents,
        "rollout_z": states,
        "reward_logits": reward_logits,
        "reward": model.net.read(reward_logits),
        "q_logits": q_logits,
        "target_q_logits": model.net.target_q(joined),
        "q": model.net.read(q_logits),
        "pi_mean": torch.tanh(mean),
        "pi_log_std": log_std,
        "td_target": td_targets(model.net, segments, latents[1:], deterministic=True, pair=pair),
    }
    loss = model.loss_of_segments(segments, deterministic=True, pair=pair)
    terms = ("consistency", "reward", "value", "termination")
    found |= {f"{name}_loss": loss.get(name, torch.zeros(())) for name in terms}
    # The policy has a loss of its own there.
    found["total_loss"] = (loss["loss"] - loss["policy"]).detach()
    model.zero_grad()
    loss["loss"].backward()
    modules = {
        "encoder": model.net.encoder,
        "dynamics": model.net.dynamics,
        "reward": model.net.reward,
        "q": model.net.q,
    }
    if model.net.termination is not None:
        modules["termination"] = model.net.termination
        found["termination_logits"] = model.net.termination(states[1:])
        found["termination"] = torch.sigmoid(found["termination_logits"])
    for name, module in modules.items():
        norms = [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
        found[f"grad_norm_{name}"] = torch.stack(norms).norm()
    found["plan_values"] = plan_values(model, inputs, io)
    for name in [name for name in io if name not in INPUTS]:
        if name not in found:
            print(f"{prefix}{name} is not compared: it is not known here")
            continue
        theirs = io[name]
        ours = found[name].detach().numpy().reshape(theirs.shape)
        is_loose = name.startswith("grad_norm") or name == "plan_values"
        report.compare(f"{prefix}{name}", ours, theirs, GRADIENT_BOUND if is_loose else VALUE_BOUND)


@torch.no_grad()
def plan_values(model: TDMPC2, inputs: dict[str, Tensor], io: dict[str, np.ndarray]) -> Tensor:
    """Return the values of the candidates from the first observation, `[N]`."""
    state = State(latent=model.net.latents({"obs": inputs["obs"][0, :1]}, None))
    candidates = inputs["plan_candidates"][:, None]  # [H, 1, N, A]

    def values(pair: tuple[int, int]) -> Tensor:
        return sequence_values(WithPair(model, pair), state, candidates, deterministic=True)[0]

    return values(best_pair(model, values, io["plan_values"]))


class WithPair:
    """A model whose value is that of two Qs that were chosen."""

    def __init__(self, model: TDMPC2, pair: tuple[int, int]) -> None:
        self.imagine, self.discount = model.imagine, model.discount
        self._model, self._pair = model, pair

    def state_value(self, state: State, *, deterministic: bool) -> Tensor:
        """Return `[B]`."""
        return self._model.state_value(state, deterministic=deterministic, pair=self._pair)


@torch.no_grad()
def best_pair(model: TDMPC2, values: Callable[[tuple[int, int]], Tensor], theirs: np.ndarray) -> tuple[int, int]:
    """Return the two Qs whose values are nearest to what was recorded."""
    recorded = torch.from_numpy(theirs).flatten()
    pairs = list(itertools.combinations(range(model.config.num_q), 2))
    return min(pairs, key=lambda pair: float((values(pair).flatten() - recorded).norm()))


def segments_of(inputs: dict[str, Tensor], model: TDMPC2) -> Segments:
    """Return the inputs as segments in which everything is real."""
    rewards, terminations = inputs["rewards"][..., 0], inputs["terminated"][..., 0].bool()
    everywhere = torch.ones_like(terminations)
    return Segments(
        obs={"obs": inputs["obs"]},
        actions=inputs["actions"],
        rewards=rewards,
        terminations=terminations,
        step_mask=everywhere,
        next_mask=everywhere,
        state_mask=torch.ones(inputs["obs"].shape[:2], dtype=torch.bool),
        tasks=None,
    )
