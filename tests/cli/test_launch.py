"""`worldline launch`: what it starts, and that a run outlives the loss of a process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.tiny import MODEL, run
from training.rank_pool import RankPool
from training.ranked import run_command
from worldline.cli.launch import LaunchOptions, environment, torchrun

NUM_STEPS = 120
BUDGET = ["--total-steps", str(NUM_STEPS), "--batch-size", "5", "--sequence-length", "6", "--device", "cpu"]
INTERVALS = ["--log-interval", "1", "--save-interval", "10"]
MAX_SECONDS = 240


def train(data: Path, out: Path) -> list[str]:
    return ["train", *MODEL, "--data", str(data), "--out", str(out), *BUDGET, *INTERVALS]


def launch(data: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worldline", "launch", "--nproc", "2", *options, "--", *train(data, out)]
    return start(command, log_of(out))


def log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.log")


def start(command: list[str], log: Path, *, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a program whose standard error goes to a file: a pipe that nobody reads is full after nine losses."""
    with log.open("a") as file:
        return subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL, text=True, env=env)


def steps_logged(out: Path) -> list[int]:
    """Return the steps in `metrics.jsonl`; a line that is just being written does not count."""
    try:
        text = (out / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    until = time.monotonic() + MAX_SECONDS
    while not (steps := steps_logged(out)) or steps[-1] < step:
        assert process.poll() is None, log_of(out).read_text()
        assert time.monotonic() < until, f"step {step} was not reached"
        time.sleep(0.01)


def workers(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Return the process ids of the workers that a launcher has running, by their ranks."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
    agents = {pid for pid, parent in parents.items() if parent == launcher.pid}
    found = {}
    for pid in (pid for pid, parent in parents.items() if parent in agents):
        variables = dict(
            entry.partition("=")[::2] for entry in (Path("/proc") / str(pid) / "environ").read_text().split("\0")
        )
        if "RANK" in variables:
            found[int(variables["RANK"])] = pid
    return found


def finish(process: subprocess.Popen[str], out: Path) -> None:
    assert process.wait(timeout=MAX_SECONDS) == 0, log_of(out).read_text()


def result(out: Path) -> tuple[bytes, list[dict[str, float]]]:
    """Return the final weights, and the losses of every step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curve = [{name: line[name] for name in ("step", "loss", "grad_norm")} for line in lines]
    assert [line["step"] for line in curve] == list(range(1, NUM_STEPS + 1))
    return (out / "final" / "model.safetensors").read_bytes(), curve


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "cartpole.npz"
    assert run("collect", "CartPole-v1", "--episodes", 10, "--out", path) == 0
    return path


@pytest.fixture(scope="module")
def expected(
    data: Path, tmp_path_factory: pytest.TempPathFactory, ranks: RankPool
) -> tuple[bytes, list[dict[str, float]]]:
    """The result of a run of two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert ranks.run(run_command, 2, arguments=train(data, out)) == [0, 0]
    return result(out)


def test_torchrun_is_told_where_hosts_meet() -> None:
    options = LaunchOptions(nnodes="1:4", node_rank=1, rdzv="host0:29400", rdzv_id="a", local_addr="10.0.0.2")
    command = torchrun(options, ["train", "x", "--resume"], nproc=8)
    assert command[1:] == [
        *("-m", "torch.distributed.run", "--nproc-per-node=8", "--max-restarts=3", "--nnodes=1:4"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=host0:29400", "--rdzv-id=a", "--rdzv-conf=is_host=0"),
        *("--local-addr=10.0.0.2", "-m", "worldline", "train", "x", "--resume"),
    ]


def test_processes_share_the_cores_and_no_store() -> None:
    cores = os.cpu_count() or 1
    assert environment({}, nproc=cores * 2)["OMP_NUM_THREADS"] == "1"
    assert environment({}, nproc=1)["OMP_NUM_THREADS"] == str(cores)
    assert environment({"OMP_NUM_THREADS": "3"}, nproc=1) == {
        "OMP_NUM_THREADS": "3",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nproc", "2"], "Say what to launch after --"),
        (["--nproc", "2", "--", "collect", "CartPole-v1"], "a worldline train command"),
        (["--nnodes", "2", "--", "train", "bc:small", "--data", "d", "--out", "o"], "--nnodes 2 needs --rdzv"),
        (["--nproc", "-1", "--", "train", "bc:small", "--data", "d", "--out", "o"], "must be at least 0"),
        (["--", "train", "bc:small", "--out", "o"], "There is nothing to learn from"),
        (["--ray", "--nnodes", "2", "--rdzv", "a:1", "--", "train", "bc:small"], "With --ray, Ray chooses the hosts"),
    ],
)
def test_mistakes_are_found_before_anything_is_started(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("launch", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_in_the_folder_is_not_resumed_by_accident(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "something").touch()
    assert run("launch", "--nproc", "2", "--", *train(data, tmp_path)) == 2
    assert "is not empty" in capsys.readouterr().err


def test_acting_online_takes_the_whole_model(ranks: RankPool, tmp_path: Path) -> None:
    arguments = ["train", "bc:small", "--env", "CartPole-v1", "--env-steps", "60", "--seed-steps", "50", "--strategy"]
    for strategy, status in (("fsdp", 2), ("ddp", 0)):
        out = tmp_path / strategy
        more = [strategy, "--eval-episodes", "2", "--batch-size", "4", "--sequence-length", "5", "--out", str(out)]
        assert ranks.run(run_command, 2, arguments=[*arguments, *more, "--device", "cpu"]) == [status, status]
    assert (out / "final" / "model.safetensors").is_file()


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


def outlive(data: Path, out: Path, kills: list[tuple[int, int]]) -> list[float]:
    """Kill the process of a rank when a step is reached, again and again; return the seconds to the next step."""
    process = launch(data, out, "--max-restarts", str(len(kills)))
    times = []
    for step, rank in kills:
        wait_for_step(process, out, step)
        reached = steps_logged(out)[-1]
        os.kill(workers(process)[rank], signal.SIGKILL)
        began = time.monotonic()
        wait_for_step(process, out, min(reached + 5, NUM_STEPS))
        times.append(time.monotonic() - began)
    finish(process, out)
    return times


@needs_proc
def test_a_run_outlives_the_loss_of_either_process(
    data: Path, expected: tuple[bytes, list[dict[str, float]]], tmp_path: Path
) -> None:
    outlive(data, tmp_path / "run", [(25, 1), (70, 0)])
    assert result(tmp_path / "run") == expected


@needs_proc
@pytest.mark.slow
def test_a_run_outlives_ten_losses(
    data: Path,
    expected: tuple[bytes, list[dict[str, float]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator = random.Random(0)
    kills = [(10 * index + generator.randrange(1, 8), generator.randrange(2)) for index in range(10)]
    times = outlive(data, tmp_path / "run", kills)
    assert result(tmp_path / "run") == expected
    with capsys.disabled():
        print(f"\nseconds from the kill to 5 steps later: {', '.join(f'{seconds:.1f}' for seconds in times)}")


HOSTS = {"10.79.0.1": "worldline-a", "10.79.0.2": "worldline-b"}  # address -> name of its network namespace


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two hosts: network namespaces with an address each, and a cable between them."""
    try:
        for name in HOSTS.values():
            ip("netns", "add", name)
        ip("link", "add", "worldline-0", "type", "veth", "peer", "name", "worldline-1")
        for index, (address, name) in enumerate(HOSTS.items()):
            ip("link", "set", f"worldline-{index}", "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"worldline-{index}")
            for device in ("lo", f"worldline-{index}"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"Network namespaces cannot be made here: {getattr(error, 'stderr', error)}")
    try:
        yield list(HOSTS)
    finally:
        for name in HOSTS.values():
            lose(name)
            ip("netns", "del", name)


def lose(host: str) -> None:
    """Kill everything that runs on a host."""
    for pid in ip("netns", "pids", host).stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def launch_on(address: str, data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """Start one of the two launchers, with one process each."""
    index = list(HOSTS).index(address)
    options = ["--nproc", "1", "--nnodes", "2", "--node-rank", str(index), "--rdzv", "10.79.0.1:29400"]
    command = [sys.executable, "-m", "worldline", "launch", *options, "--local-addr", address, "--", *train(data, out)]
    return start(
        ["ip", "netns", "exec", HOSTS[address], *command, *more],
        log_of(out),
        env={**os.environ, "GLOO_SOCKET_IFNAME": f"worldline-{index}"},
    )


@pytest.mark.slow
def test_a_lost_host_that_comes_back_is_taken_up_again(
    data: Path, expected: tuple[bytes, list[dict[str, float]]], tmp_path: Path, hosts: list[str]
) -> None:
    out = tmp_path / "run"
    first, second = (launch_on(address, data, out) for address in hosts)
    wait_for_step(first, out, 35)
    lose(HOSTS[hosts[1]])
    second.wait()
    assert steps_logged(out)[-1] < NUM_STEPS
    second = launch_on(hosts[1], data, out, "--resume")
    for launcher in (first, second):
        finish(launcher, out)
    assert result(out) == expected


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_launcher_that_is_told_to_stop_leaves_a_run_that_goes_on(
    data: Path,
    expected: tuple[bytes, list[dict[str, float]]],
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    out = tmp_path / "run"
    process = launch(data, out)
    wait_for_step(process, out, 15)
    process.send_signal(number)
    assert process.wait(timeout=MAX_SECONDS) == status, log_of(out).read_text()
    assert "Go on where it stopped with" in log_of(out).read_text()
    saved = sorted((out / "checkpoints").glob("step_*"))[-1]
    assert saved.name == f"step_{steps_logged(out)[-1]:08d}"  # the last step that was done, not the last interval
    again = [sys.executable, "-m", "worldline", "launch", "--nproc", "2", "--", *train(data, out), "--resume"]
    finish(start(again, log_of(out)), out)
    assert result(out) == expected
