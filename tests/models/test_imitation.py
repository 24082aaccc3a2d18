"""The imitation families: their sizes, what they refuse, and what is peculiar to each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from worldline import registry
from worldline.create import create_model
from worldline.data.buffer import ReplayBuffer
from worldline.errors import ConfigError
from worldline.models import act, diffusion_policy, flow_policy, vla
from worldline.models.act import ACT
from worldline.models.base import build_outline, num_trained
from worldline.models.tokens import ImageTokens, TextTokens
from worldline.models.vla import VLA, VLAConfig

# For observations of 20 numbers and 2 actions; of vla, an image of 64 x 64 and an instruction of 32 bytes besides
NUM_PARAMETERS = {
    "act:tiny": 35_906,
    "act:small": 1_477_954,
    "act:paper": 40_231_106,
    "diffusion_policy:tiny": 110_112,
    "diffusion_policy:small": 5_175_712,
    "diffusion_policy:unet": 4_493_762,
    "diffusion_policy:paper": 63_488_642,
    "flow_policy:tiny": 110_112,
    "flow_policy:small": 5_175_712,
    "flow_policy:unet": 4_493_762,
    "flow_policy:paper": 63_488_642,
    "vla:tiny": 242_368,
    "vla:small": 6_389_312,
    "vla:base": 44_109_632,
}


def shape_of(name: str) -> Any:
    return {"image": (64, 64, 3), "language": (32,), "state": (20,)} if name.startswith("vla") else (20,)


def build(name: str, **settings: Any) -> Any:
    return create_model(name, **{"obs_shape": shape_of(name), "action_dim": 2, "action_type": "continuous", **settings})


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_the_sizes(name: str):
    family, size = registry.resolve(name)
    config = registry.load(family, family.config)(
        obs_shape=shape_of(name), action_dim=2, **registry.load(family, "SIZES")[size]
    )
    model = build_outline(lambda: registry.load(family, family.model)(config), num_tensors=1000)
    assert num_trained(model) == NUM_PARAMETERS[name]


def test_every_size_is_counted():
    families = {"act": act, "diffusion_policy": diffusion_policy, "flow_policy": flow_policy, "vla": vla}
    assert {f"{name}:{size}" for name, family in families.items() for size in family.SIZES} == NUM_PARAMETERS.keys()


def test_the_layer_sizes_by_hand():
    """Of diffusion policy, tiny: each linear layer has a weight for each input, and a bias."""
    time = 128 * 256 + 256 + 256 * 128 + 128
    condition = 128 + 2 * 20
    embedding = condition * 64 + 64 + 64 * 64 + 64
    block = 64 * 2 * 64 + 2 * 64 + 64 * 128 + 128 + 128 * 64 + 64
    mlp = embedding + 32 * 64 + 64 + block + 2 * 64 + 64 * 32 + 32
    assert num_trained(build("diffusion_policy:tiny")) == time + mlp


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("act", {"size": 30}, "multiple of heads=4"),
        ("act", {"layers": 0}, "layers must be between"),
        ("act", {"latent": 0}, "latent must be at least 1"),
        ("act", {"action_type": "discrete"}, "Use bc"),
        ("diffusion_policy", {"num_steps": 101}, "num_steps must be between 1 and num_levels"),
        ("diffusion_policy", {"prediction": "x"}, "prediction must be"),
        ("flow_policy", {"num_steps": 0}, "num_steps must be between 1 and 1000"),
        ("vla", {"dropout": 1.0}, "dropout must be in"),
        ("vla", {"head": "tail"}, "head"),
    ],
)
def test_what_is_refused(name: str, settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build(name, **settings)


def test_the_kl_divergence_of_act_by_hand():
    """Mean 1 and deviation e in each of two numbers: (1 + e^2 - 1) / 2 - 1 nats each."""
    model: ACT = build("act:tiny", latent=2, horizon=4, num_executed=2).eval()
    model.fit(buffer().statistics())
    with torch.no_grad():
        model.way_output.weight.zero_()
        model.way_output.bias.copy_(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    result = model.compute_loss(buffer().sample(4, 4, windows=model.windows))
    kl = float(result["kl"])
    assert kl == pytest.approx(2 * (torch.e**2 / 2 - 1), rel=1e-5)
    assert float(result["loss"].detach()) == pytest.approx(float(result["absolute_error"]) + 10 * kl, rel=1e-5)


def buffer() -> ReplayBuffer:
    generator = torch.Generator().manual_seed(0)
    filled = ReplayBuffer(100, (20,), 2, action_sizes=())
    obs, actions = torch.randn(10, 20, generator=generator), torch.rand(10, 2, generator=generator)
    filled.add_episode(obs.numpy(), actions.numpy(), [0.0] * 10, terminated=False, truncated=True)
    return filled


@pytest.mark.parametrize("head", ["regression", "diffusion", "flow"])
def test_vla_reads_its_instruction(head: str):
    """What it does depends on the words; none at all are no error."""
    torch.manual_seed(0)
    config = VLAConfig(
        obs_shape={"language": (8,)}, action_dim=2, size=32, units=32, layers=1, mlp_units=32, mlp_blocks=1, head=head
    )
    model = VLA(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    model.actions.fitted.fill_(True)
    words = torch.tensor([list(b"go left\0"), list(b"go right"), list(b"\0" * 8)], dtype=torch.uint8)
    model.eval()
    noise = 0.1 * torch.randn(1, 16, 2).expand(3, -1, -1)
    with torch.no_grad():
        chunks = model.chunk(model.inputs({"language": words[:, None]}), noise)
        as_floats = model.chunk(model.inputs({"language": words[:, None].float()}), noise)  # as files hold vectors
    assert chunks.isfinite().all()
    assert (chunks[0] - chunks[1]).abs().max() > 1e-3
    assert torch.equal(as_floats, chunks)


def test_text_is_read_alike_however_much_padding_follows_it():
    torch.manual_seed(0)
    exact, padded = TextTokens(8, 16), TextTokens(18, 16)
    shared = {name: value for name, value in exact.state_dict().items() if "positions" not in name}
    padded.load_state_dict(shared, strict=False)
    for tokens in (exact, padded):
        torch.nn.init.zeros_(tokens.positions.vectors)
    text = torch.tensor([list(b"go right"), list(b"go\0\0\0\0\0\0")])
    words, is_real, instruction = exact(text)
    more_words, more_real, same_instruction = padded(torch.nn.functional.pad(text, (0, 10)))
    assert is_real.tolist() == [[True, True], [True, False]]
    assert more_real.tolist() == [[True, True, False, False, False], [True, False, False, False, False]]
    torch.testing.assert_close(same_instruction, instruction)
    torch.testing.assert_close(more_words[:, :2], words)


def test_the_instruction_says_which_places_count():
    """Two bright spots in two channels: one instruction finds the one, another the other."""
    images = torch.zeros(2, 1, 2, 16, 16)
    images[:, 0, 0, 4, 8] = images[:, 0, 1, 12, 2] = 1.0
    tokens = ImageTokens((2, 16, 16), 1, 2, (8,), has_text=True)
    tokens.features = torch.nn.MaxPool2d(2)  # a map of 8 x 8
    tokens.modulation = torch.nn.Identity()  # the instruction is the scales and shifts themselves
    with torch.no_grad():
        for parameter in (tokens.points.project.bias, tokens.places.weight, tokens.places.bias):
            parameter.zero_()
        tokens.positions.vectors.zero_()
        tokens.points.project.weight.fill_(100.0)
        tokens.places.weight[0, :32] = tokens.places.weight[1, 32:] = 1 / 32  # the mean row, the mean column
    instructions = torch.tensor([[0.0, -1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])
    found = tokens(images, instructions)[:, 0]
    steps = torch.linspace(-1, 1, 8)
    expected = torch.tensor([[steps[2], steps[4]], [steps[6], steps[1]]])
    torch.testing.assert_close(found, expected)
