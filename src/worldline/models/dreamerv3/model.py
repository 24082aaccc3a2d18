"""DreamerV3: a world model that learns behaviour in imagination."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from worldline.batch import Batch, Obs
from worldline.errors import DataError
from worldline.models.base import Trajectory, WorldModel
from worldline.models.dreamerv3.behavior import ImaginedBehavior, imagination_losses, replay_value_loss
from worldline.models.dreamerv3.codecs import Decoder, Encoder
from worldline.models.dreamerv3.config import DreamerV3Config
from worldline.models.dreamerv3.heads import ActionHead, Head
from worldline.models.dreamerv3.rows import Rows, align
from worldline.models.dreamerv3.rssm import RSSM, State
from worldline.models.dreamerv3.scan import matrix_dtype
from worldline.models.observations import named_obs
from worldline.ops.distributions import bernoulli_loss, categorical_entropy, categorical_kl
from worldline.ops.masking import masked_mean
from worldline.ops.twohot import symexp_bins, twohot_loss, twohot_mean
from worldline.protocols import ParamGroup


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What the world model makes of a batch, time first; N = T * B."""

    tokens: Tensor  # [T, B, E]
    state: State  # leaves [T, B, ...]
    logits: Tensor  # [T, B, S * K], posterior
    features: Tensor  # [N, D + S * K]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ActorState:
    """What `act` remembers between calls."""

    latent: State  # leaves [N, ...]
    action: Tensor  # [N, A], the last one


class DreamerV3(WorldModel):
    """The world model, the actor and the critics."""

    family: ClassVar[str] = "dreamerv3"
    bins: Tensor
    return_levels: Tensor
    return_low: Tensor
    return_high: Tensor

    def __init__(self, config: DreamerV3Config) -> None:
        super().__init__(config)
        self.config: DreamerV3Config = config
        features = config.deter + config.stoch * config.classes
        units, bins = config.units, config.num_bins
        self.encoder = Encoder(config)
        self.rssm = RSSM(config, self.encoder.token_dim)
        self.decoder = Decoder(config)
        self.reward = Head(features, units, config.reward_layers, bins, scale=config.reward_init_scale)
        self.continuation = Head(features, units, config.continue_layers, 1)
        self.actor = ActionHead(config)
        self.value = Head(features, units, config.value_layers, bins, scale=config.value_init_scale)
        self.slow_value = copy.deepcopy(self.value).requires_grad_(False)
        self.register_buffer("bins", symexp_bins(bins), persistent=False)
        # Running 5th and 95th percentile of imagined returns
        self.register_buffer("return_levels", torch.tensor([0.05, 0.95]), persistent=False)
        self.register_buffer("return_low", torch.zeros(()))
        self.register_buffer("return_high", torch.zeros(()))
        scales = dict.fromkeys(config.obs_shapes, config.reconstruction_scale)
        self.loss_scales = scales | {
            "dyn": config.dyn_scale,
            "rep": config.rep_scale,
            "rew": config.reward_scale,
            "con": config.continue_scale,
            "policy": config.policy_scale,
            "value": config.value_scale,
            "repval": config.replay_value_scale,
        }

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return one group for LaProp with adaptive gradient clipping."""
        config = self.config
        return [
            ParamGroup(
                name="all",
                params=[parameter for parameter in self.parameters() if parameter.requires_grad],
                algorithm="laprop",
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                agc=config.agc,
            )
        ]

    @torch.no_grad()
    def after_update(self) -> None:
        """Move the slow critic a step towards the critic."""
        slow: list[Tensor] = list(self.slow_value.parameters())
        fast: list[Tensor] = list(self.value.parameters())
        torch._foreach_lerp_(slow, fast, self.config.slow_value_rate)

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" and, detached, its terms and statistics of the imagined behaviour.

        In training mode the running range of returns is updated. Noise comes from torch's default generator.
        """
        return self.loss_of_rows(align(batch, self.config), deterministic=False)

    def loss_of_rows(self, rows: Rows, *, deterministic: bool) -> dict[str, Tensor]:
        """Return the loss of rows aligned as the reference has them; `deterministic` takes modes for samples."""
        elements, metrics = self.loss_elements(rows, deterministic=deterministic)
        assert elements.keys() == self.loss_scales.keys(), (sorted(elements), sorted(self.loss_scales))
        terms = {name: masked_mean(*pair) for name, pair in elements.items()}
        loss = torch.stack([self.loss_scales[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss} | {name: value.detach() for name, value in (terms | metrics).items()}

    def loss_elements(
        self, rows: Rows, *, deterministic: bool
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
        """Return every loss element by element with the mask of those that count (`[T, B]`), and metrics."""
        config = self.config
        shape = rows.is_first.shape
        elements: dict[str, tuple[Tensor, Tensor]] = {}

        # World model
        seen = self.observe_rows(rows, deterministic=deterministic)
        prior = self.rssm.probs(self.rssm.prior(seen.state.deter)).log()
        posterior = self.rssm.probs(seen.logits).log()
        dyn = categorical_kl(posterior.detach(), prior).sum(-1)
        rep = categorical_kl(posterior, prior.detach()).sum(-1)
        elements["dyn"] = dyn.clamp(min=config.free_nats), rows.valid
        elements["rep"] = rep.clamp(min=config.free_nats), rows.valid
        flat_obs = {name: value.flatten(0, 1) for name, value in rows.obs.items()}
        for name, error in self.decoder.losses(seen.features, flat_obs).items():
            elements[name] = error.view(shape), rows.obs_mask
        reward_logits = self.reward(seen.features).view(*shape, -1)
        elements["rew"] = twohot_loss(log_softmax(reward_logits, -1), rows.rewards, self.bins), rows.arrival_mask
        continue_logits = self.continuation(seen.features).view(shape)
        keeps = (~rows.is_terminal).float() * (1 - 1 / config.discount_horizon)
        elements["con"] = bernoulli_loss(continue_logits, keeps), rows.arrival_mask

        # Replay (its critics' outputs are those of imagination's first states, too)
        value_log_probs = log_softmax(self.value(seen.features), -1).view(*shape, -1)
        with torch.no_grad():
            slow_values = self.read(self.slow_value, seen.features).view(shape)

        # Imagination
        start = seen.state.map(lambda leaf: leaf.detach().flatten(0, 1))
        imagined = self.imagine_behavior(start, seen.features.detach(), deterministic=deterministic)
        first_continues = torch.sigmoid(continue_logits.detach()).flatten()
        losses, returns, metrics = imagination_losses(
            self, imagined, first_continues, slow_values.flatten(), rows.valid.flatten()
        )
        elements |= {name: (value.view(shape), rows.valid) for name, value in losses.items()}
        repval = replay_value_loss(self, rows, value_log_probs, slow_values, returns.view(shape))
        elements["repval"] = repval, rows.valid[:-1]

        metrics["prior_entropy"] = masked_mean(categorical_entropy(prior.detach()).sum(-1), rows.valid)
        metrics["posterior_entropy"] = masked_mean(categorical_entropy(posterior.detach()).sum(-1), rows.valid)
        return elements, metrics

    def observe_rows(self, rows: Rows, *, deterministic: bool) -> Observed:
        """Encode the rows and return the posterior state of each."""
        time, batch = rows.is_first.shape
        config = self.config
        flat = {name: value.flatten(0, 1) for name, value in rows.obs.items()}
        tokens = self.encoder(flat).view(time, batch, -1)
        tokens = tokens.masked_fill(~rows.obs_mask[..., None], 0.0)
        device = tokens.device
        uniform = None if deterministic else torch.rand(time, batch, config.stoch, device=device)
        initial = self.rssm.initial(batch, device)
        deter, stoch, logits = self.rssm.observe(tokens, rows.prev_actions, rows.is_first, uniform, initial)
        # The straight-through estimator: the sample's value, the probabilities' gradient (inside the scan).
        state = State(deter=deter, stoch=stoch)
        return Observed(tokens=tokens, state=state, logits=logits, features=state.features.flatten(0, 1))

    def imagine_behavior(self, start: State, features: Tensor, *, deterministic: bool) -> ImaginedBehavior:
        """Follow the policy for H steps from N states, with gradients for the policy alone.

        Args:
            start: Leaves `[N, ...]`, detached.
            features: `[N, F]` of `start`, detached.
            deterministic: Take modes instead of samples.
        """
        config, horizon = self.config, self.config.imagination_horizon
        num, device = len(features), features.device
        latent_noise, action_noise = None, None
        if not deterministic:
            latent_noise = torch.rand(horizon, num, config.stoch, device=device)
            action_noise = self.actor.noise(horizon, num, device=device)
        state = start
        dtype = matrix_dtype(device)  # all heads multiply in it: converted once
        all_features, all_params, actions = [features.to(dtype)], [], []
        with torch.no_grad():
            transition = self.rssm.transition(num)
        for step in range(horizon):
            params = self.actor(all_features[-1])
            with torch.no_grad():
                action = self.actor.sample(params, None if action_noise is None else action_noise[step])
                deter = transition(state, action)
                uniform = None if latent_noise is None else latent_noise[step]
                state = State(deter=deter, stoch=self.rssm.sample(self.rssm.prior(deter), uniform))
                all_features.append(state.features_in(dtype))
            all_params.append(params)
            actions.append(action)
        return ImaginedBehavior(features=all_features, policy=torch.stack(all_params), actions=torch.stack(actions))

    def read(self, head: Head, features: Tensor) -> Tensor:
        """Return the scalar `[...]` that a two-hot head predicts from `features [..., F]`."""
        return twohot_mean(torch.softmax(head(features), -1), self.bins)

    def encode(self, obs: Obs) -> State:
        """Return the posterior state after a first observation, `[B, *obs]`."""
        named = self._named(obs)
        device = next(iter(named.values())).device
        initial = self.rssm.initial(len(next(iter(named.values()))), device)
        action = torch.zeros(len(initial.deter), self.config.action_dim, device=device)
        return self._update(initial, action, named, deterministic=not self.training)

    def observe(self, batch: Batch) -> State:
        """Return the posterior state at every row, leaves `[B, T, ...]`; modes in evaluation mode."""
        seen = self.observe_rows(align(batch, self.config), deterministic=not self.training)
        return seen.state.map(lambda leaf: leaf.transpose(0, 1))

    def imagine(self, state: State, actions: Tensor) -> Trajectory:
        """Return what `actions [H, B, A]` lead to from `state`; modes in evaluation mode."""
        self._check_actions(state, actions)
        transition = self.rssm.transition(len(state.deter))
        states = []
        for action in actions.unbind(0):
            deter = transition(state, action.to(state.deter.dtype))
            logits = self.rssm.prior(deter)
            uniform = torch.rand(*deter.shape[:-1], self.config.stoch, device=deter.device) if self.training else None
            state = State(deter=deter, stoch=self.rssm.sample(logits, uniform))
            states.append(state)
        stacked = State(
            deter=torch.stack([state.deter for state in states]), stoch=torch.stack([state.stoch for state in states])
        )
        features = stacked.features
        return Trajectory(
            rewards=self.read(self.reward, features),
            # The head learns the discount along with the continuation; here it is taken out again.
            continues=(torch.sigmoid(self.continuation(features)[..., 0]) / (1 - 1 / self._horizon)).clamp(max=1.0),
            states=stacked,
        )

    def state_value(self, state: State, *, deterministic: bool = True) -> Tensor:
        """Return the value `[...]` of states, for planning; there is nothing random in it."""
        return self.read(self.value, state.features)

    def discount(self, state: State) -> Tensor:
        """Return the discount `[]` of every step, for planning."""
        return state.deter.new_tensor(1 - 1 / self._horizon)

    def decode(self, state: State) -> Obs:
        """Return the observations of states with leaves `[..., *]`, in their own units; images in [0, 1]."""
        features = state.features
        decoded = self.decoder.decode(features.flatten(0, -2))
        shaped = {name: value.unflatten(0, features.shape[:-1]) for name, value in decoded.items()}
        return shaped if isinstance(self.config.obs_shape, dict) else shaped["obs"]

    @torch.no_grad()
    def act(
        self, obs: Obs, state: ActorState | None = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, ActorState]:
        """Choose actions `[N, A]` for N environments: one-hot where discrete, in [-1, 1] where continuous."""
        named = self._named(obs)
        device = self.bins.device
        named = {name: value.to(device) for name, value in named.items()}
        num = len(next(iter(named.values())))
        if state is None:
            action = torch.zeros(num, self.config.action_dim, device=device)
            state = ActorState(latent=self.rssm.initial(num, device), action=action)
        latent, action = state.latent, state.action
        if is_first is not None:
            keep = (~is_first.to(device)).float()[:, None]
            latent, action = latent.map(lambda leaf: leaf * keep), action * keep
        latent = self._update(latent, action, named, deterministic=deterministic)
        noise = None if deterministic else self.actor.noise(num, device=device)
        action = self.actor.sample(self.actor(latent.features), noise)
        if not self.config.choices:
            action = action.clamp(-1, 1)
        return action, ActorState(latent=latent, action=action)

    def _update(self, state: State, action: Tensor, obs: dict[str, Tensor], *, deterministic: bool) -> State:
        """Return the posterior after `action [N, A]` led from `state` to `obs`."""
        deter = self.rssm.transition(len(action))(state, action)
        logits = self.rssm.posterior(deter, self.encoder(obs))
        uniform = None if deterministic else torch.rand(len(deter), self.config.stoch, device=deter.device)
        return State(deter=deter, stoch=self.rssm.sample(logits, uniform))

    @property
    def _horizon(self) -> int:
        return self.config.discount_horizon

    def _named(self, obs: Obs) -> dict[str, Tensor]:
        return named_obs(obs, self.config.obs_shapes, leading=1)

    def _check_actions(self, state: State, actions: Tensor) -> None:
        expected = (*state.deter.shape[:-1], self.config.action_dim)
        if actions.ndim != 3 or tuple(actions.shape[1:]) != expected:
            raise DataError(
                f"imagine expects actions [H, B, A] = [H, {', '.join(map(str, expected))}], time first; "
                f"got {list(actions.shape)}. Data is batch first: use actions.transpose(0, 1)."
            )
