"""A compiled loss is the same loss, leaves no names in checkpoints, and resumes."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.tiny_training import TinyModel, TinySampler, make_batch, make_config, same_state, state_of
from worldline.batch import Batch
from worldline.errors import ConfigError
from worldline.training import Callback, CheckpointCallback, Trainer
from worldline.training import compiling as module
from worldline.training.compiling import ComputeLoss, compiled

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


class Losses(Callback):
    """Keeps every loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.losses.append(losses["loss"].item())


class PlainModel(TinyModel):
    """Without dropout, for which the compiler has generators of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.net[2] = nn.Identity()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])])
def test_a_compiled_run_has_the_same_losses_names_and_after_update(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first backend traces and differentiates as the second does, which takes a minute to generate code."""
    monkeypatch.setattr(module.torch, "compile", functools.partial(torch.compile, backend=backend))
    curves, models = [], []
    for compile_loss in (False, True):
        curve = Losses()
        callbacks = [CheckpointCallback(tmp_path / str(compile_loss), 10, max_checkpoints=9), curve]
        trainer = Trainer(PlainModel(), make_config(compile=compile_loss), callbacks)
        models.append(trainer.train(TinySampler()))
        assert trainer.evaluate(TinySampler(), num_batches=1).keys() == {"loss", "error"}
        curves.append(curve.losses)
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert models[1].updates.item() == 20
    names = [load_file(tmp_path / run / "step_00000020" / "model.safetensors").keys() for run in ("False", "True")]
    assert names[0] == names[1] == PlainModel().state_dict().keys()
    resumed = Trainer(PlainModel(9), make_config(compile=True))
    resumed.train(TinySampler(), resume_from=tmp_path / "True" / "step_00000010")
    assert same_state(state_of(resumed.model), state_of(models[1]))


@needs_compiler
@pytest.mark.slow
def test_behaviour_cloning_compiles_to_the_same_losses() -> None:
    from worldline.create import create_model

    curves = []
    for compile_loss in (False, True):
        torch.manual_seed(0)
        model = create_model("bc:small", obs_shape=(4,), action_dim=1, action_type="continuous")
        curve = Losses()
        Trainer(model, make_config(compile=compile_loss, learning_rate=1e-3), [curve]).train(TinySampler())
        curves.append(curve.losses)
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert curves[0][-1] < curves[0][0]


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(torch._dynamo.exc.TorchDynamoException):
        pass

    def compile_to_nothing(function: ComputeLoss, *, dynamic: bool) -> ComputeLoss:
        assert not dynamic

        def fail(batch: Batch) -> dict[str, Tensor]:
            raise Broken("\nno C++ compiler found\nmore")

        return fail

    monkeypatch.setattr(module.torch, "compile", compile_to_nothing)
    with pytest.raises(ConfigError, match=r"here: no C\+\+ compiler found Compiling needs .* Use compile=False"):
        compiled(TinyModel().compute_loss)(make_batch(0))


@pytest.mark.filterwarnings("ignore:The actions of the first batch")
def test_tdmpc2_compiles_once_to_the_same_losses_whichever_values_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise, dropout and the two of five values that count are drawn in the same order by this backend."""
    from worldline.create import create_model

    torch._dynamo.reset()
    compiles = torch._dynamo.utils.counters
    compiles.clear()
    monkeypatch.setattr(module.torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    sizes = {"latent": 16, "units": 16, "encoder_units": 16, "num_bins": 11, "num_q": 5, "dropout": 0.1}
    curves = []
    for compile_loss in (False, True):
        torch.manual_seed(0)
        model = create_model("tdmpc2:1m", obs_shape=(4,), action_dim=1, action_type="continuous", **sizes)
        curve = Losses()
        Trainer(model, make_config(compile=compile_loss, learning_rate=1e-3), [curve]).train(TinySampler())
        curves.append(curve.losses)
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert not compiles["graph_break"]
    assert compiles["stats"]["unique_graphs"] == 1
