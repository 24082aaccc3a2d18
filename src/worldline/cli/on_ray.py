"""A `worldline train` command as the workers of a Ray Train job, for those who have a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldline.errors import WorldlineError, missing_package


def train_on_ray(command: Sequence[str], *, num_workers: int, use_gpu: bool, max_restarts: int) -> None:
    """Run `command` ("train", ...) in `num_workers` workers, all of them again when one is lost.

    Paths in it must mean the same on every node: give absolute ones, in a folder that all share.

    Raises:
        MissingPackageError: Ray is not installed.
        WorldlineError: The job failed more than `max_restarts` times.
    """
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise missing_package("ray", "ray", "worldline launch --ray") from error
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"command": list(command)},
        # Ray connects the workers itself. As in `distributed.join`, messages on the CPU need gloo beside NCCL.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=max_restarts)),
    )
    trainer.fit()


def run_worker(settings: dict[str, Any]) -> None:
    """Do what one worker does.

    Raises:
        WorldlineError: The command ended with an error, which it has printed.
    """
    from worldline.cli.main import main

    if (status := main(settings["command"])) != 0:
        raise WorldlineError(f"worldline {' '.join(settings['command'])} ended with status {status}.")
