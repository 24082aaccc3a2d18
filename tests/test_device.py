from __future__ import annotations

import pytest
import torch

from worldline.device import device_of, resolve_device
from worldline.errors import ConfigError


def test_auto_is_something_that_is_here():
    assert torch.zeros(1, device=resolve_device("auto")).numel() == 1


def test_auto_takes_cuda_before_the_rest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "meta", torch.device("cpu")])
def test_present_devices_pass(device: str | torch.device):
    assert resolve_device(device) == str(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "xla", "vulkan"])
def test_unknown_devices_are_refused(device: str):
    with pytest.raises(ConfigError, match="Use 'cpu'"):
        resolve_device(device)


def test_an_index_beyond_the_last_device_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="2 of type 'cuda' found"):
        resolve_device("cuda:2")


def test_where_a_module_is():
    assert device_of(torch.nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(torch.nn.ReLU()) == device_of("no module") == torch.device("cpu")
