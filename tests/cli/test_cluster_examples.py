"""The examples for clusters: nothing is submitted, but what they would run is checked."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from worldline.cli import launch, on_ray
from worldline.cli.options import parse
from worldline.cli.train import parse_arguments
from worldline.errors import MissingPackageError, WorldlineError

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
TRAIN = ["bc:small", "--data", "d.npz", "--out", "run"]


def test_a_slurm_job_launches_once_on_every_node(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    submitted: dict[str, Any] = {}

    class Executor:
        def __init__(self, folder: str) -> None:
            pass

        def update_parameters(self, **parameters: Any) -> None:
            submitted.update(parameters)

        def submit(self, job: Any) -> Any:
            submitted["job"] = job
            return types.SimpleNamespace(job_id="17")

    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=Executor))
    runpy.run_path(str(CLUSTER / "slurm.py"))["main"](["--nodes", "2", "--gpus", "4", "--", *TRAIN])
    assert capsys.readouterr().out == "17\n"
    assert (submitted["nodes"], submitted["tasks_per_node"], submitted["gpus_per_node"]) == (2, 1, 4)
    command = submitted["job"].arguments(1, "host0")
    assert command[1:4] == ["-m", "worldline", "launch"]
    own, rest = launch._split(command[4:])
    options = parse(launch.LaunchOptions, own, command="launch", description="")
    assert (options.nproc, options.nnodes, options.node_rank, options.rdzv) == (4, "2", 1, "host0:29400")
    assert rest[0] == "train"
    assert parse_arguments(rest[1:])[0].resume


def test_a_train_job_runs_a_command_that_exists():
    runtime, job = yaml.safe_load_all((CLUSTER / "trainjob.yaml").read_text())
    assert job["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": runtime["kind"],
        "name": runtime["metadata"]["name"],
    }
    trainer = job["spec"]["trainer"]
    assert trainer["command"] == ["torchrun", "-m", "worldline"]
    assert trainer["args"][0] == "train"
    assert parse_arguments(trainer["args"][1:])[0].resume
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = node["template"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"} in container["env"]


def test_ray_runs_the_command_in_every_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    started: dict[str, Any] = {}

    class TorchTrainer:
        def __init__(self, function: Any, **settings: Any) -> None:
            started.update(settings, function=function)

        def fit(self) -> None:
            started["is_fit"] = True

    plain = types.SimpleNamespace
    train = types.ModuleType("ray.train")
    train.FailureConfig = train.RunConfig = train.ScalingConfig = plain  # type: ignore[attr-defined]
    torch_train = types.ModuleType("ray.train.torch")
    torch_train.TorchConfig, torch_train.TorchTrainer = plain, TorchTrainer  # type: ignore[attr-defined]
    for name, module in (("ray", types.ModuleType("ray")), ("ray.train", train), ("ray.train.torch", torch_train)):
        monkeypatch.setitem(sys.modules, name, module)
    out = ["--out", str(tmp_path / "run")]
    command = ["train", "bc:small", "--data", "d.npz", *out, "--device", "cpu"]
    launch.main(["--ray", "--nproc", "3", "--max-restarts", "2", "--", *command])
    assert started["is_fit"]
    assert started["train_loop_config"] == {"command": [*command, "--resume"]}
    assert (started["scaling_config"].num_workers, started["scaling_config"].use_gpu) == (3, False)
    assert started["torch_config"].backend == "gloo"
    assert started["run_config"].failure_config.max_failures == 2
    with pytest.raises(WorldlineError, match=r"worldline train .* ended with status 2"):  # there is no d.npz
        started["function"](started["train_loop_config"])


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'worldline\[ray\]'"):
        on_ray.train_on_ray(["train"], num_workers=1, use_gpu=False, max_restarts=0)
