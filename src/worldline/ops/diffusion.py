"""Gaussian diffusion: noise schedules, noising, conversions and single denoising steps.

A schedule has K levels; level k keeps the share abar_k of the signal's variance (Ho, Jain & Abbeel 2020, equation 4):

    x_k = sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps,    eps ~ N(0, I)

and v_k = sqrt(abar_k) eps - sqrt(1 - abar_k) x_0 (Salimans & Ho 2022). Two of x_k, x_0, eps and v give the other two.
The clean signal is level "-1", with abar = 1.

Everywhere `x [*L, ...]` is of any shape and `alpha_bar [*L]` has its leading dimensions, or none: commands `[B, 2]` and
chunks of actions `[B, H, A]` both go with an `alpha_bar [B]`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

BetaSchedule = Literal["linear", "cosine", "quadratic"]

_FIRST_BETA, _LAST_BETA = 1e-4, 0.02  # of Ho, Jain & Abbeel, who have 1,000 levels
_MAX_BETA = 0.999  # of Nichol & Dhariwal: beyond it, the last levels of the cosine lose all signal


def make_betas(schedule: BetaSchedule, num_levels: int) -> Tensor:
    """Return the variance that each level adds, `[K]` float32 in (0, 0.999].

    - "linear": from 1e-4 to 0.02 (Ho, Jain & Abbeel 2020)
    - "quadratic": the same ends, linear in the square root
    - "cosine": abar falls as a squared cosine (Nichol & Dhariwal 2021, equation 17, offset 0.008)

    The first two are meant for 1,000 levels; with fewer, each adds as much more, so that the last level is noise.
    """
    assert num_levels >= 1, f"num_levels is {num_levels}"
    if schedule == "cosine":
        angles = (torch.arange(num_levels + 1, dtype=torch.float64) / num_levels + 0.008) / 1.008 * (math.pi / 2)
        remaining = angles.cos().square()
        betas = 1 - remaining[1:] / remaining[:-1]
    else:
        power = {"linear": 1, "quadratic": 2}[schedule]
        first, last = _FIRST_BETA ** (1 / power), _LAST_BETA ** (1 / power)
        betas = torch.linspace(first, last, num_levels, dtype=torch.float64) ** power * (1000 / num_levels)
    return betas.clamp(max=_MAX_BETA).float()


def cumulative_alphas(betas: Tensor) -> Tensor:
    """Return abar `[K]`: the share of the signal's variance that is left at each level, falling within (0, 1)."""
    assert betas.ndim == 1, f"betas {tuple(betas.shape)} must be [K]"
    return (1 - betas.double()).cumprod(0).to(betas.dtype)


def spaced_levels(num_levels: int, num_steps: int) -> list[int]:
    """Return `num_steps` of the levels, evenly spaced and falling: where sampling in fewer steps passes by.

    The first is the last level, which is noise. After the final one follows the clean signal.

    >>> spaced_levels(1000, 4)
    [999, 749, 499, 249]
    """
    assert 1 <= num_steps <= num_levels, f"{num_steps} steps over {num_levels} levels"
    return [round(num_levels * (num_steps - index) / num_steps) - 1 for index in range(num_steps)]


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return x_k: the clean `x0` with so much `noise` (of its shape) that `alpha_bar` of the signal is left."""
    signal, spread = _roots(alpha_bar, x0)
    return signal * x0 + spread * noise


def velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return v of a clean signal and its noise."""
    signal, spread = _roots(alpha_bar, x0)
    return signal * noise - spread * x0


def x0_from_noise(x: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the clean signal of which `x` is the noisy one, if its noise is `noise`."""
    signal, spread = _roots(alpha_bar, x)
    return (x - spread * noise) / signal


def x0_from_velocity(x: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the clean signal of which `x` is the noisy one, if its v is `v`."""
    signal, spread = _roots(alpha_bar, x)
    return signal * x - spread * v


def noise_from_x0(x: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the noise in `x`, if `x0` is the clean signal; `alpha_bar` must be below 1."""
    signal, spread = _roots(alpha_bar, x)
    return (x - signal * x0) / spread


def noise_from_velocity(x: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the noise in `x`, if its v is `v`."""
    signal, spread = _roots(alpha_bar, x)
    return spread * x + signal * v


def ddim_step(
    x: Tensor,
    x0: Tensor,
    alpha_bar: Tensor,
    next_alpha_bar: Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Return `x` at a level of less noise (Song, Meng & Ermon 2021, equation 12).

    Args:
        x: The noisy signal.
        x0: The clean signal that a network predicts from it; clip it before, if its range is known.
        alpha_bar: The level of `x`, below 1.
        next_alpha_bar: The level to go to, at least `alpha_bar`; 1 is the clean signal.
        eta: How much fresh noise to add: 0 for none (DDIM), 1 for as much as the forward process (DDPM).
        noise: Standard normal, of the shape of `x`; needed if `eta` is not 0.
    """
    assert (noise is not None) or not eta, "eta > 0 needs noise"
    predicted = noise_from_x0(x, x0, alpha_bar)
    if not eta or noise is None:
        return add_noise(x0, predicted, next_alpha_bar)
    variance = (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - alpha_bar / next_alpha_bar) * eta**2
    signal, _ = _roots(next_alpha_bar, x)
    kept, _ = _roots((1 - next_alpha_bar - variance).clamp(min=0), x)
    fresh, _ = _roots(variance, x)
    return signal * x0 + kept * predicted + fresh * noise


def ddpm_step(x: Tensor, x0: Tensor, alpha_bar: Tensor, next_alpha_bar: Tensor, noise: Tensor) -> Tensor:
    """Return a sample of the posterior of the next level given `x` and `x0` (Ho, Jain & Abbeel 2020, equation 7).

    It is `ddim_step` with `eta` = 1, and takes the same arguments. At the clean signal no noise is added.
    """
    return ddim_step(x, x0, alpha_bar, next_alpha_bar, eta=1.0, noise=noise)


def _roots(alpha_bar: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the roots of `alpha_bar [*L]` and of 1 - `alpha_bar`, shaped to go with `x [*L, ...]`."""
    assert alpha_bar.shape == x.shape[: alpha_bar.ndim], (
        f"alpha_bar {tuple(alpha_bar.shape)} does not lead the shape {tuple(x.shape)}"
    )
    level = alpha_bar.view(*alpha_bar.shape, *(1,) * (x.ndim - alpha_bar.ndim))
    return level.sqrt(), (1 - level).sqrt()
