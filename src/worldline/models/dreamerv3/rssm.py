"""Recurrent state-space model with a block-diagonal GRU and categorical latents (Hafner et al. 2023, eq. 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldline.models.dreamerv3.config import DreamerV3Config
from worldline.models.dreamerv3.scan import ScanInputs, ScanOutputs, ScanWeights, gate, matrix_dtype, posterior_scan
from worldline.models.dreamerv3.transition import MIN_ROWS, BlockwiseTransition
from worldline.nn.layers import MLP, BlockLinear, Dense, Linear, NormSiLU
from worldline.ops.distributions import categorical_sample, mix_uniform
from worldline.ops.linear import block_linear, linear, may_cut_products


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Latent states with free leading dimensions."""

    deter: Tensor  # [..., D]
    stoch: Tensor  # [..., S * K], S one-hot vectors of K classes

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Return the state with `function` applied to both tensors."""
        return State(deter=function(self.deter), stoch=function(self.stoch))

    @property
    def features(self) -> Tensor:
        """`[..., D + S * K]`, what the heads see."""
        return self.features_in(self.deter.dtype)

    def features_in(self, dtype: torch.dtype) -> Tensor:
        """Return the features converted."""
        return torch.cat([self.deter.to(dtype), self.stoch.to(dtype)], -1)


class StepWeights(NamedTuple):
    """The transition's weights, laid out for its products: h hidden, D deter, G blocks."""

    hidden_block: Tensor  # [G, D/G, D/G], the part of the hidden layer that sees the block's own deter
    hidden_dense: Tensor  # [D, 3h], the part that sees the embeddings of deter, stoch and action
    gate_block: Tensor  # [G, D/G, 3D/G]


class RSSM(nn.Module):
    """Transition, prior and posterior."""

    def __init__(self, config: DreamerV3Config, token_dim: int) -> None:
        super().__init__()
        deter, hidden, latent = config.deter, config.hidden, config.stoch * config.classes
        self.config = config
        self.deter_in = Dense(deter, hidden)
        self.stoch_in = Dense(latent, hidden)
        self.action_in = Dense(config.action_dim, hidden)
        self.hidden = BlockLinear(deter + config.blocks * 3 * hidden, deter, config.blocks)
        self.hidden_norm = NormSiLU(deter)
        self.gates = BlockLinear(deter, 3 * deter, config.blocks)
        self.prior_mlp = MLP(deter, hidden, config.prior_layers)
        self.prior_out = Linear(hidden, latent)
        self.post_in = Dense(deter + token_dim, hidden)
        self.post_out = Linear(hidden, latent)

    def initial(self, batch_size: int, device: torch.device) -> State:
        """Return the all-zero state that every episode starts from."""
        config = self.config
        return State(
            deter=torch.zeros(batch_size, config.deter, device=device),
            stoch=torch.zeros(batch_size, config.stoch * config.classes, device=device),
        )

    def step_weights(self) -> StepWeights:
        """Return the transition's weights; compute them once for a sequence of steps.

        The reference repeats the embeddings for every block of the hidden layer. Since all blocks see the same ones,
        that part is a dense layer, and only the rest is block-diagonal.
        """
        dtype = matrix_dtype(self.hidden.weight.device)
        own = self.config.deter // self.config.blocks
        weight = self.hidden.weight.to(dtype)  # [G, D/G + 3h, D/G]
        dense = weight[:, own:].transpose(1, 2).flatten(0, 1)
        return StepWeights(weight[:, :own], dense, self.gates.weight.to(dtype))

    def step(self, state: State, action: Tensor, weights: StepWeights) -> Tensor:
        """Return the next deter `[N, D]` after `action [N, A]`."""
        dtype = weights.hidden_dense.dtype
        embedding = torch.cat([self.deter_in(state.deter), self.stoch_in(state.stoch), self.embed_action(action)], -1)
        hidden = block_linear(state.deter.to(dtype), weights.hidden_block)
        hidden += linear(embedding.to(dtype), weights.hidden_dense, self.hidden.bias.to(dtype))
        gates = block_linear(self.hidden_norm(hidden).to(dtype), weights.gate_block, self.gates.bias, parts=3)
        return gate(gates.unbind(0), state.deter, overwrite=not torch.is_grad_enabled())

    def transition(self, rows: int) -> Callable[[State, Tensor], Tensor]:
        """Return the fastest way to take a sequence of steps from `rows` states: a function like `step`."""
        if rows >= MIN_ROWS and not torch.is_grad_enabled() and may_cut_products(self.hidden.weight.device):
            return BlockwiseTransition(self)
        weights = self.step_weights()
        return lambda state, action: self.step(state, action, weights)

    def embed_action(self, action: Tensor) -> Tensor:
        """Return `[..., h]`."""
        embedded: Tensor = self.action_in(self.bounded(action))
        return embedded

    def bounded(self, action: Tensor) -> Tensor:
        """Return the action with what is beyond [-1, 1] at the nearest bound."""
        return action / action.abs().clamp(min=1)

    def prior(self, deter: Tensor) -> Tensor:
        """Return the logits `[..., S * K]` of what comes next, before an observation."""
        logits: Tensor = self.prior_out(self.prior_mlp(deter))
        return logits.float()

    def posterior(self, deter: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits `[..., S * K]` given the observation's tokens."""
        logits: Tensor = self.post_out(self.post_in(torch.cat([deter, tokens], -1)))
        return logits.float()

    def probs(self, logits: Tensor) -> Tensor:
        """Return `[..., S, K]` probabilities with 1% of the uniform distribution mixed in."""
        return mix_uniform(logits.unflatten(-1, (self.config.stoch, self.config.classes)), self.config.unimix)

    def sample(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """Return one-hot samples `[..., S * K]` without gradient; `uniform [..., S]`, or None for the mode."""
        return categorical_sample(self.probs(logits), uniform).flatten(-2)

    def observe(
        self, tokens: Tensor, prev_actions: Tensor, is_first: Tensor, uniform: Tensor | None, state: State
    ) -> ScanOutputs:
        """Return the posterior states of a sequence, time first.

        Args:
            tokens: `[T, B, E]`, encoded observations.
            prev_actions: `[T, B, A]`, the action that led to each row.
            is_first: `[T, B]` bool; state and action before such a row are forgotten.
            uniform: `[T, B, S]` noise in [0, 1), or None for the mode.
            state: `[B, ...]`, the state before row 0.
        """
        config = self.config
        keep = (~is_first).to(torch.float32)[..., None]
        weights = self.step_weights()
        both = 2 * config.hidden
        dense = weights.hidden_dense
        action_part = linear(self.embed_action(prev_actions * keep).to(dense.dtype), dense[:, both:])
        action_part = action_part.float() + self.hidden.bias
        post_weight, post_bias = self.post_in.linear.weight, self.post_in.linear.bias
        token_part = linear(tokens, post_weight[:, config.deter :], post_bias).float()
        scan_weights = ScanWeights(
            deter_weight=self.deter_in.linear.weight,
            deter_bias=self.deter_in.linear.bias,
            deter_scale=self.deter_in.norm.scale,
            stoch_weight=self.stoch_in.linear.weight,
            stoch_bias=self.stoch_in.linear.bias,
            stoch_scale=self.stoch_in.norm.scale,
            hidden_block=weights.hidden_block,
            hidden_dense=dense[:, :both],
            hidden_scale=self.hidden_norm.scale,
            gate_block=weights.gate_block,
            gate_bias=self.gates.bias,
            post_weight=post_weight[:, : config.deter],
            post_scale=self.post_in.norm.scale,
            logit_weight=self.post_out.weight,
            logit_bias=self.post_out.bias,
        )
        inputs = ScanInputs(action_part, token_part, keep, uniform, state.deter, state.stoch)
        return posterior_scan(inputs, scan_weights, classes=config.classes, unimix=config.unimix)
