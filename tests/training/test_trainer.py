"""The training loop: what it computes, how it resumes, how it ends, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.tiny_training import (
    TinyModel,
    TinySampler,
    Unseekable,
    make_batch,
    make_config,
    same_state,
    state_of,
)
from worldline.errors import ConfigError, DataError, NonFiniteError
from worldline.training import Callback, CheckpointCallback, EarlyStoppingCallback, Trainer, train
from worldline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


class LossCurve(Callback):
    """Keeps every loss."""

    def __init__(self) -> None:
        self.losses: dict[int, Tensor] = {}

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.losses[step] = losses["loss"].clone()


class At(Callback):
    """Does something at one step."""

    def __init__(self, step: int, action: object) -> None:
        self.step, self.action = step, action

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        if step == self.step:
            self.action(self.trainer)  # type: ignore[operator]


def trained(steps: int = 20, **settings: object) -> tuple[Trainer[TinyModel], dict[str, Tensor]]:
    trainer = Trainer(TinyModel(), make_config(total_steps=steps, **settings))
    return trainer, state_of(trainer.train(TinySampler()))


def test_the_loop_equals_one_written_by_hand() -> None:
    curve = LossCurve()
    config = make_config(total_steps=30, warmup_steps=5, weight_decay=0.1, grad_clip=0.5)
    model = Trainer(TinyModel(), config, [curve]).train(TinySampler())

    other, sampler = TinyModel(), TinySampler()
    optimizer = torch.optim.AdamW(other.parameters(), weight_decay=0.1)
    sampler.seek(seed=config.seed, step=0)
    torch.manual_seed(config.seed)
    for step in range(1, 31):
        optimizer.param_groups[0]["lr"] = config.learning_rate * min(1.0, step / 5)
        optimizer.zero_grad()
        loss = other.compute_loss(sampler.sample(4, 3))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
        torch.testing.assert_close(curve.losses[step], loss.detach(), rtol=1e-5, atol=1e-6)
    for own, reference in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-6)
    assert model.updates.item() == 30


def test_training_learns() -> None:
    model = TinyModel(algorithm="laprop", eps=1e-20, agc=0.3)
    trainer = Trainer(model, make_config(total_steps=400))
    before = trainer.evaluate(TinySampler())["loss"]
    trainer.train(TinySampler())
    assert trainer.evaluate(TinySampler())["loss"] < 0.05 * before


def test_the_same_run_twice_is_the_same_bit_for_bit() -> None:
    assert same_state(trained()[1], trained()[1])
    assert not same_state(trained()[1], trained(seed=43)[1])


def test_the_model_comes_back_in_evaluation_mode_and_in_its_own_memory() -> None:
    trainer, _ = trained()
    assert not trainer.model.training
    for param in trainer.model.parameters():
        assert param.grad is None
        assert param.untyped_storage().nbytes() == param.numel() * 4


def test_two_calls_equal_one() -> None:
    trainer = Trainer(TinyModel(), make_config())
    trainer.train(TinySampler(), num_steps=7)
    assert trainer.step == 7
    trainer.train(TinySampler())
    assert trainer.step == 20
    assert same_state(state_of(trainer.model), trained()[1])


def test_nothing_left_to_do_is_a_warning() -> None:
    trainer, state = trained()
    with pytest.warns(UserWarning, match="Nothing to train: 20 steps are done"):
        trainer.train(TinySampler())
    assert same_state(state, state_of(trainer.model))
    trainer.train(TinySampler(), num_steps=1)
    assert trainer.step == 21


def test_a_warm_up_that_never_ends_is_a_warning() -> None:
    for steps, is_told in ((21, True), (20, False)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            Trainer(TinyModel(), make_config(total_steps=20, warmup_steps=steps)).train(TinySampler(), num_steps=1)
        assert any("never reaches" in str(one.message) for one in told) == is_told


@pytest.mark.parametrize("group", [{}, {"algorithm": "laprop", "eps": 1e-20, "agc": 0.3}])
def test_a_resumed_run_ends_bit_equal(tmp_path: Path, group: dict[str, object]) -> None:
    def run(directory: Path, resume_from: Path | None = None) -> tuple[dict[int, Tensor], bytes]:
        curve = LossCurve()
        callbacks = [CheckpointCallback(directory, 7), EarlyStoppingCallback(patience=1000), curve]
        trainer = Trainer(TinyModel(seed=0 if resume_from is None else 99, **group), make_config(), callbacks)
        torch.rand(0 if resume_from is None else 5)  # noise of whoever else draws before training
        trainer.train(TinySampler(), resume_from=resume_from)
        return curve.losses, (directory / "step_00000020" / "model.safetensors").read_bytes()

    whole, expected = run(tmp_path / "a")
    resumed, weights = run(tmp_path / "b", resume_from=tmp_path / "a" / "step_00000007")
    assert weights == expected
    assert sorted(resumed) == list(range(8, 21))
    assert all(torch.equal(whole[step], loss) for step, loss in resumed.items())
    files = [tmp_path / run / "step_00000020" for run in "ab"]
    for name in ("optimizer.safetensors", "rng.safetensors", "state.json"):
        assert (files[0] / name).read_bytes() == (files[1] / name).read_bytes()


def test_a_checkpoint_may_come_from_a_function(tmp_path: Path) -> None:
    trainer = Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path, save_interval=7)])
    trainer.train(TinySampler(), num_steps=7)
    given: list[nn.Module] = []

    def read(model: nn.Module) -> Checkpoint:
        given.append(model)
        return load_checkpoint(tmp_path, model)

    resumed = Trainer(TinyModel(seed=99), make_config())
    resumed.train(TinySampler(), num_steps=0, resume_from=read)
    assert given == [resumed.model]
    assert resumed.step == 7
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True))


def test_resuming_restores_the_steps_that_a_sampler_draws(tmp_path: Path) -> None:
    Trainer(TinyModel(), make_config(total_steps=6), [CheckpointCallback(tmp_path)]).train(TinySampler())
    sampler = TinySampler()
    trainer = Trainer(TinyModel(), make_config(total_steps=9))
    trainer.train(sampler, resume_from=tmp_path)
    assert (sampler.seed, sampler.drawn) == (42, [6, 7, 8])
    assert trainer.last_checkpoint == tmp_path / "step_00000006"


def test_resuming_on_data_that_cannot_seek_is_a_warning(tmp_path: Path) -> None:
    Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path)]).train(TinySampler())
    with pytest.warns(UserWarning, match="The data cannot seek"):
        Trainer(TinyModel(), make_config(total_steps=25)).train(Unseekable(), resume_from=tmp_path)


def test_resuming_with_other_settings_is_a_warning_that_names_them(tmp_path: Path) -> None:
    Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path)]).train(TinySampler())
    trainer = Trainer(TinyModel(), make_config(total_steps=21, batch_size=5, learning_rate=0.5))
    with pytest.warns(UserWarning, match=r"batch_size 4 -> 5, learning_rate 0\.01 -> 0\.5"):
        trainer.train(TinySampler(), resume_from=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = Trainer(TinyModel(), make_config(total_steps=21, log_interval=3, save_interval=4))
        trainer.train(TinySampler(), resume_from=tmp_path)


def test_total_steps_may_change_only_where_the_rate_does_not_depend_on_them(tmp_path: Path) -> None:
    def run(total_steps: int, schedule: str, resume_from: Path | None = None) -> dict[str, Tensor]:
        config = make_config(total_steps=total_steps, schedule=schedule)
        trainer = Trainer(TinyModel(), config, [CheckpointCallback(tmp_path / schedule)])
        return state_of(trainer.train(TinySampler(), resume_from=resume_from))

    for schedule in ("constant", "linear"):
        run(12, schedule)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_state(run(20, "constant", resume_from=tmp_path / "constant"), trained()[1])
    with pytest.warns(UserWarning, match=r"\(total_steps 12 -> 20\), so it is not the one"):
        run(20, "linear", resume_from=tmp_path / "linear")


def test_resuming_on_another_kind_of_device_is_a_warning(tmp_path: Path) -> None:
    trainer, _ = trained(5)
    checkpoint = trainer.capture()
    save_checkpoint(tmp_path / "cpu", checkpoint, trainer.model)
    elsewhere = dataclasses.replace(checkpoint, config={**checkpoint.config, "device": "cuda:1"})
    save_checkpoint(tmp_path / "cuda", elsewhere, trainer.model)
    with pytest.warns(UserWarning, match=r"\(device 'cuda:1' -> 'cpu:0'\), so it is not the one"):
        Trainer(TinyModel(), make_config(device="cpu:0")).train(TinySampler(), resume_from=tmp_path / "cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(TinyModel(), make_config(device="cpu:0")).train(TinySampler(), resume_from=tmp_path / "cpu")


def test_a_checkpoint_says_which_device_auto_was(tmp_path: Path) -> None:
    trainer = Trainer(TinyModel(), make_config(device="auto"))
    assert trainer.capture().config["device"] == str(trainer.device) != "auto"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path)]).train(TinySampler())
    other = TinyModel()
    other.net[0] = nn.Linear(4, 8)
    with pytest.raises(DataError, match=r"step_00000020 was made with another model: .*net\.0\.weight"):
        Trainer(other, make_config(total_steps=30)).train(TinySampler(), resume_from=tmp_path)


def test_evaluate_averages_and_changes_nothing() -> None:
    class Evaluating(Callback):
        def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
            if step % 4 == 0:
                first, second = (self.trainer.evaluate(sampler, num_batches=3) for _ in range(2))
                assert first == second
                assert self.trainer.model.training
                assert self.trainer.model.net[2].training

    sampler = TinySampler()
    trainer = Trainer(TinyModel(), make_config(), [Evaluating()])
    trainer.train(sampler)  # evaluates on the very data that it trains on
    assert same_state(state_of(trainer.model), trained()[1])

    trainer.model.eval()
    sampler.seek(seed=43, step=0)
    with torch.no_grad():
        losses = [trainer.model.compute_loss(sampler.sample(4, 3))["loss"].item() for _ in range(3)]
    assert trainer.evaluate(sampler, num_batches=3)["loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_evaluate_keeps_the_mode_of_every_module() -> None:
    trainer = Trainer(TinyModel(), make_config())
    trainer.model.train()
    trainer.model.net[2].eval()
    trainer.evaluate(TinySampler(), num_batches=1)
    assert trainer.model.training
    assert not trainer.model.net[2].training


def test_iterables_of_batches_train() -> None:
    batches = [make_batch(seed) for seed in range(3)]
    trainer = Trainer(TinyModel(), make_config())
    trainer.train(batches)
    assert trainer.step == 20


@pytest.mark.parametrize("steps_before", [0, 4])
def test_a_nan_stops_before_the_update_and_saves_the_batch(tmp_path: Path, steps_before: int) -> None:
    saving = CheckpointCallback(tmp_path, save_interval=2)
    trainer = Trainer(TinyModel(), make_config(), [saving])
    clean = Trainer(TinyModel(), make_config())
    with pytest.raises(NonFiniteError, match=rf"step {steps_before + 1} is NaN.*nonfinite_step_0000000"):
        trainer.train(TinySampler(poisoned=[steps_before]))
    if steps_before:
        clean.train(TinySampler(), num_steps=steps_before)
    assert same_state(state_of(trainer.model), state_of(clean.model))
    assert trainer.status == "failed"
    assert not (tmp_path / f"step_{steps_before + 1:08d}").exists()
    folder = tmp_path / f"nonfinite_step_{steps_before + 1:08d}"
    rewards = load_file(folder / "batch.safetensors")["rewards"]
    assert rewards[0, 0].isnan()
    assert torch.equal(rewards[1:], make_batch(42 * 100_003 + steps_before).rewards[1:])
    assert json.loads((folder / "step.json").read_text())["step"] == steps_before + 1


@pytest.mark.parametrize(("seekable", "found"), [(True, "are in"), (False, "is gone")])
def test_a_nan_found_later_is_traced_to_its_batch(tmp_path: Path, seekable: bool, found: str) -> None:
    """As on an accelerator, where losses are looked at every so many steps."""
    trainer = Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path, save_interval=100)])
    trainer._updater._watch.interval = 10
    data = (TinySampler if seekable else Unseekable)(poisoned=[3])
    with pytest.raises(NonFiniteError, match=f"step 4 is NaN.*{found}"):
        trainer.train(data)
    folder = tmp_path / "nonfinite_step_00000004"
    assert folder.exists() == seekable
    if seekable:
        assert load_file(folder / "batch.safetensors")["rewards"][0, 0].isnan()


def test_a_nan_found_late_never_reaches_the_disk(tmp_path: Path) -> None:
    trainer = Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path, save_interval=4)])
    trainer._updater._watch.interval = 1000
    with pytest.raises(NonFiniteError, match="step 6 is NaN"):
        trainer.train(TinySampler(poisoned=[5]))
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_00000004"]
    assert all(bool(tensor.isfinite().all()) for tensor in load_checkpoint(tmp_path).model.values())


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    def poison(trainer: Trainer[TinyModel]) -> None:
        with torch.no_grad():
            trainer.model.net[0].bias[0] = float("inf")

    trainer = Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path, 5), At(5, poison)])
    with pytest.raises(NonFiniteError, match="weights are not finite after step 5"):
        trainer.train(TinySampler())
    assert not list(tmp_path.glob("step_*"))


def test_request_stop_ends_after_the_step(tmp_path: Path) -> None:
    trainer = Trainer(
        TinyModel(),
        make_config(),
        [At(6, lambda trainer: trainer.request_stop("enough")), CheckpointCallback(tmp_path)],
    )
    trainer.train(TinySampler())
    assert (trainer.step, trainer.status, trainer.stop_reason) == (6, "stopped", "enough")
    assert (tmp_path / "step_00000006").exists()


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_finishes_the_step_saves_and_leaves(
    tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    kill = At(6, lambda trainer: os.kill(os.getpid(), number))
    trainer = Trainer(TinyModel(), make_config(), [kill, CheckpointCallback(tmp_path)])
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with pytest.raises(error) as caught:
        trainer.train(TinySampler())
    if error is SystemExit:
        assert caught.value.args == (143,)
    else:
        assert f"after step 6. Continue with trainer.train(data) and resume_from='{tmp_path}" in str(caught.value)
    assert handlers == [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    assert trainer.status == "interrupted"
    other = Trainer(TinyModel(seed=5), make_config())
    other.train(TinySampler(), resume_from=tmp_path)
    assert same_state(state_of(other.model), trained()[1])


def test_a_second_ctrl_c_acts_at_once(tmp_path: Path) -> None:
    def twice(trainer: Trainer[TinyModel]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer = Trainer(TinyModel(), make_config(), [At(6, twice), CheckpointCallback(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(TinySampler())
    assert trainer.status == "failed"
    assert not list(tmp_path.glob("step_*"))


def test_an_error_reaches_every_callback_and_saves_nothing(tmp_path: Path) -> None:
    def fail(trainer: Trainer[TinyModel]) -> None:
        raise RuntimeError("mine")

    class FailsToo(Callback):
        def on_train_end(self) -> None:
            raise ValueError("at the end")

    ended: list[str] = []

    class Last(Callback):
        def on_train_end(self) -> None:
            ended.append(self.trainer.status)

    trainer = Trainer(TinyModel(), make_config(), [At(3, fail), CheckpointCallback(tmp_path), FailsToo(), Last()])
    with pytest.raises(ValueError, match="at the end") as caught:
        trainer.train(TinySampler())
    assert isinstance(caught.value.__context__, RuntimeError)
    assert ended == ["failed"]
    assert not list(tmp_path.glob("step_*"))
    assert all(param.grad is None for param in trainer.model.parameters())


def test_bf16_computes_the_loss_under_autocast_and_keeps_float32_weights() -> None:
    seen = []

    class Seeing(TinyModel):
        def compute_loss(self, batch: object) -> dict[str, Tensor]:
            losses = super().compute_loss(batch)  # type: ignore[arg-type]
            seen.append(self.net(batch.obs).dtype)  # type: ignore[attr-defined]
            return losses

    trainer = Trainer(Seeing(), make_config(total_steps=2, precision="bf16"))
    trainer.train(TinySampler())
    trainer.evaluate(TinySampler(), num_batches=1)
    assert seen == [torch.bfloat16] * 3
    assert all(param.dtype == torch.float32 for param in trainer.model.parameters())


def test_callbacks_of_one_class_keep_their_own_state(tmp_path: Path) -> None:
    stops = [EarlyStoppingCallback("loss"), EarlyStoppingCallback("error")]
    trainer = Trainer(TinyModel(), make_config(), [*stops, CheckpointCallback(tmp_path)])
    trainer.train(TinySampler())
    again = [EarlyStoppingCallback("loss"), EarlyStoppingCallback("error")]
    with pytest.warns(UserWarning, match="Nothing to train"):
        Trainer(TinyModel(), make_config(), again).train(TinySampler(), resume_from=tmp_path)
    assert [callback.state_dict() for callback in again] == [callback.state_dict() for callback in stops]
    assert again[0].best_value != again[1].best_value


def test_train_takes_every_setting_and_refuses_others() -> None:
    settings = {"total_steps": 20, "batch_size": 4, "sequence_length": 3, "learning_rate": 1e-2, "device": "cpu"}
    model = train(TinyModel(), TinySampler(), callbacks=(), **settings)
    assert same_state(state_of(model), trained()[1])
    with pytest.raises(ConfigError, match=r"'learning_rte'\. Did you mean 'learning_rate'"):
        train(TinyModel(), TinySampler(), learning_rte=1e-3)


def test_train_shows_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    train(TinyModel(), TinySampler(), total_steps=3, batch_size=4, sequence_length=3, device="cpu")
    assert "step 3 of 3" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear lacks compute_loss, param_groups, after_update"):
        Trainer(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="no parameter to train"):
        Trainer(TinyModel().requires_grad_(False), make_config()).train(TinySampler())
    with pytest.raises(ConfigError, match="cuda:77"):
        Trainer(TinyModel(), make_config(device="cuda:77"))
