from __future__ import annotations

from typing import Any

import pytest
import torch

from models.dreamerv3.tiny_dreamer import make_config, make_obs
from worldline.episode import is_channels_first
from worldline.models.dreamerv3.codecs import Decoder, Encoder, ImageLayout, scale_image
from worldline.ops.twohot import symexp, symlog

SHAPES: list[Any] = [
    (5,),
    (2, 3),
    (20, 36, 3),
    (84, 84, 1),
    (3, 40, 64),
    (16, 16, 1),
    (9, 9, 3),
    (5, 5, 1),
    {"joints": (4,), "camera": (16, 24, 3)},
    {"b": (12, 12, 1), "a": (3, 12, 12), "type": (2,), "state.x": (1,)},
]
FEATURES = 32 + 16


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def named(config: Any, num: int) -> dict[str, torch.Tensor]:
    obs = make_obs(config, num, generator=torch.Generator().manual_seed(0))
    return obs if isinstance(obs, dict) else {"obs": obs}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 64, 64), True),
        ((1, 5, 5), True),
        ((64, 64, 3), False),
        ((20, 36, 1), False),
        ((4, 4, 3), False),
        ((9, 84, 84), True),
        ((84, 84, 9), False),
    ],
)
def test_where_the_channels_are(shape: tuple[int, ...], expected: bool):
    assert is_channels_first(shape) == expected


@pytest.mark.parametrize(
    ("shape", "stages", "grid", "padding"),
    [
        ((64, 64, 3), 4, (4, 4), (0, 0, 0, 0)),  # the reference's own
        ((96, 96, 3), 4, (6, 6), (0, 0, 0, 0)),
        ((84, 84, 1), 4, (6, 6), (0, 12, 0, 12)),
        ((20, 36, 3), 3, (3, 5), (0, 4, 0, 4)),
        ((3, 40, 64), 4, (3, 4), (0, 0, 0, 8)),
        ((128, 128, 3), 5, (4, 4), (0, 0, 0, 0)),
        ((5, 5, 1), 1, (3, 3), (0, 1, 0, 1)),
        ((64, 7, 3), 1, (32, 4), (0, 1, 0, 0)),  # a narrow image is not halved to nothing
    ],
)
def test_layout(shape: tuple[int, ...], stages: int, grid: tuple[int, int], padding: tuple[int, ...]):
    layout = ImageLayout({"image": shape})
    assert (layout.stages, (layout.rows, layout.columns), layout.padding) == (stages, grid, padding)


def test_channels_by_stage():
    layout = ImageLayout({"image": (128, 128, 3)})
    assert layout.depths(4) == [8, 12, 16, 16, 16]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_gradients(shape: Any):
    config = make_config(obs_shape=shape)
    encoder, decoder = Encoder(config), Decoder(config)
    obs = named(config, 3)
    tokens = encoder(obs)
    assert tokens.shape == (3, encoder.token_dim)
    assert tokens.dtype == torch.float32
    features = torch.randn(3, FEATURES)
    decoded = decoder(features)
    assert {name: tuple(value.shape) for name, value in decoded.items()} == {
        name: (3, *size) for name, size in config.obs_shapes.items()
    }
    losses = decoder.losses(features, obs)
    assert list(losses) == list(config.obs_shapes)
    (tokens.square().sum() + sum(loss.sum() for loss in losses.values())).backward()
    for name, parameter in (*encoder.named_parameters(), *decoder.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_blocks_that_do_not_divide_the_channels():
    """At depth 4 the deepest map of a 16 x 16 image has 12 channels, for 8 blocks."""
    config = make_config(obs_shape=(16, 16, 1), depth=4, blocks=8)
    decoder = Decoder(config)
    assert decoder.from_deter.weight.shape[0] == 4
    assert decoder(torch.randn(2, FEATURES))["obs"].shape == (2, 16, 16, 1)


@pytest.mark.parametrize("size", [(20, 36), (16, 16)])
def test_the_place_of_the_channels_changes_nothing(size: tuple[int, int]):
    last = make_config(obs_shape=(*size, 3))
    first = make_config(obs_shape=(3, *size))
    encoders, decoders = (Encoder(last), Encoder(first)), (Decoder(last), Decoder(first))
    encoders[1].load_state_dict(encoders[0].state_dict())
    decoders[1].load_state_dict(decoders[0].state_dict())
    image = named(last, 2)["obs"]
    assert torch.equal(encoders[0]({"obs": image}), encoders[1]({"obs": image.permute(0, 3, 1, 2)}))
    features = torch.randn(2, FEATURES)
    ours, theirs = decoders[0](features)["obs"], decoders[1](features)["obs"]
    assert torch.equal(ours.permute(0, 3, 1, 2), theirs)


def test_images_are_padded_by_their_border():
    """So a border that was there already adds nothing new: a 21 x 21 image is its 24 x 24 continuation."""
    small, large = make_config(obs_shape=(21, 21, 1)), make_config(obs_shape=(24, 24, 1))
    encoders = Encoder(small), Encoder(large)
    encoders[1].load_state_dict(encoders[0].state_dict())
    image = named(small, 2)["obs"]
    rows = torch.arange(24).clamp(max=20)
    assert torch.equal(encoders[0]({"obs": image}), encoders[1]({"obs": image[:, rows][:, :, rows]}))


def test_integer_and_float_images_are_the_same():
    config = make_config(obs_shape=(12, 12, 3))
    encoder, decoder = Encoder(config), Decoder(config)
    image = named(config, 2)["obs"]
    assert torch.equal(encoder({"obs": image}), encoder({"obs": image.float() / 255}))
    features = torch.randn(2, FEATURES)
    ours, theirs = (decoder.losses(features, {"obs": x})["obs"] for x in (image, image.float() / 255))
    assert torch.equal(ours, theirs)
    assert scale_image(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


def test_vectors_are_seen_after_symlog():
    config = make_config(obs_shape=(2,))
    encoder, decoder = Encoder(config), Decoder(config)
    obs = torch.tensor([[1e6, -3.0]])
    assert torch.equal(encoder({"obs": obs}), encoder.mlp(symlog(obs)))
    features = torch.randn(1, FEATURES)
    prediction = decoder(features)["obs"]
    expected = (prediction[0, 0] - symlog(obs[0, 0])) ** 2 + (prediction[0, 1] - symlog(obs[0, 1])) ** 2
    assert decoder.losses(features, {"obs": obs})["obs"].item() == pytest.approx(expected.item())
    assert torch.equal(decoder.decode(features)["obs"], symexp(prediction))


def test_images_are_decoded_into_zero_to_one():
    config = make_config(obs_shape={"camera": (12, 12, 1), "x": (2,)})
    decoder = Decoder(config)
    features = torch.randn(4, FEATURES) * 100
    decoded = decoder.decode(features)
    assert decoded["camera"].min() >= 0
    assert decoded["camera"].max() <= 1
    assert torch.equal(decoded["camera"], decoder(features)["camera"])


def test_losses_of_images_sum_over_pixels():
    config = make_config(obs_shape=(12, 12, 3))
    decoder, features = Decoder(config), torch.randn(2, FEATURES)
    target = torch.rand(2, 12, 12, 3)
    expected = (decoder(features)["obs"] - target).square().sum((1, 2, 3))
    assert torch.allclose(decoder.losses(features, {"obs": target})["obs"], expected)


def test_the_decoder_sees_stoch_and_deter():
    config = make_config(obs_shape={"camera": (12, 12, 1), "x": (2,)})
    decoder, features = Decoder(config), torch.randn(2, FEATURES, requires_grad=True)
    for name, value in decoder(features).items():
        (grad,) = torch.autograd.grad(value.square().sum(), features, retain_graph=True)
        assert (grad[:, :32].abs().sum(1) > 0).all(), name
        assert (grad[:, 32:].abs().sum(1) > 0).all(), name
