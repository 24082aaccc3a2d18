"""`worldline launch -- train ...`: train in several processes, of one host or of several, and start lost ones again."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from worldline.cli import runs, train
from worldline.cli.options import parse
from worldline.errors import ConfigError, WorldlineError

_DESCRIPTION = """\
Train in several processes that compute a share of every batch each: what follows -- is a worldline train command. They
are started by torchrun, all with --resume: when one is lost, all of them begin again at the newest checkpoint.

Examples:
  worldline launch --nproc 2 -- train dreamerv3:size1m --data cartpole.npz --out runs/a
  worldline launch --nnodes 2 --node-rank 0 --rdzv host0:29400 -- train dreamerv3:size12m --data d.npz --out /shared/b

docs/cluster.md leads from one process to a cluster.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Options of `worldline launch`."""

    nproc: int = 0
    """Processes on this host; 0 for one per GPU, or a single one where there is none."""
    nnodes: str = "1"
    """Hosts, each of which is given the same command; 1:4 takes from one to four, as they come and go."""
    node_rank: int = 0
    """The number of this host; host 0 keeps the list of the others."""
    rdzv: str = ""
    """HOST:PORT of host 0, where the hosts meet; needed where there are several."""
    rdzv_id: str = "worldline"
    """Tells this run from others that meet at the same place."""
    local_addr: str = ""
    """The address by which other hosts reach this one, where its name does not say."""
    max_restarts: int = 3
    """How many times to begin again after a process was lost."""
    ray: bool = False
    """Start the processes as workers of a Ray Train job (pip install 'worldline[ray]'), on whatever hosts Ray has."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    own, command = _split(arguments)
    options = parse(LaunchOptions, own, command="launch", description=_DESCRIPTION)
    _check(options)
    if command[:1] != ["train"]:
        raise ConfigError("Say what to launch after --: a worldline train command, such as -- train bc:small ...")
    given, _ = train.parse_arguments(command[1:])
    if options.node_rank == 0:  # once, and before any process of this run has written there
        runs.check_folder(given.out, resume=given.resume)
    num_gpus = _num_gpus()
    nproc = options.nproc or num_gpus or 1
    if options.ray:
        from worldline.cli.on_ray import train_on_ray

        wants_gpu = given.training.device == "cuda" or (given.training.device == "auto" and num_gpus > 0)
        train_on_ray(resuming(command), num_workers=nproc, use_gpu=wants_gpu, max_restarts=options.max_restarts)
        return
    _run(torchrun(options, command, nproc=nproc), environment(os.environ, nproc=nproc))


def torchrun(options: LaunchOptions, command: Sequence[str], *, nproc: int) -> list[str]:
    """Return the command line of torchrun.

    >>> torchrun(LaunchOptions(), ["train", "bc:small"], nproc=2)[1:]
    ['-m', 'torch.distributed.run', '--nproc-per-node=2', '--max-restarts=3', '--standalone', '-m', 'worldline', \
'train', 'bc:small', '--resume']
    """
    meeting = ["--standalone"]
    if options.nnodes != "1":
        meeting = [
            f"--nnodes={options.nnodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={options.rdzv}",
            f"--rdzv-id={options.rdzv_id}",
            f"--rdzv-conf=is_host={int(options.node_rank == 0)}",
        ]
        if options.local_addr:
            meeting.append(f"--local-addr={options.local_addr}")
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={nproc}", f"--max-restarts={options.max_restarts}"]
    return [sys.executable, *launcher, *meeting, "-m", "worldline", *resuming(command)]


def resuming(command: Sequence[str]) -> list[str]:
    """Return the command with --resume: whoever begins it again goes on at the newest checkpoint."""
    return [*command, *([] if "--resume" in command else ["--resume"])]


def environment(inherited: Mapping[str, str], *, nproc: int) -> dict[str, str]:
    """Return the environment of torchrun and of what it starts.

    Processes that share the rendezvous's store do not get over the loss of one of them: the next ones find what the
    last ones left there. So they get a store of their own each time. And they share the cores of the host.
    """
    threads = max(1, (os.cpu_count() or 1) // nproc)
    return {"OMP_NUM_THREADS": str(threads), **inherited, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before and after the first "--"."""
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:place]), list(arguments[place + 1 :])


def _check(options: LaunchOptions) -> None:
    if options.nproc < 0 or options.max_restarts < 0 or options.node_rank < 0:
        raise ConfigError("--nproc, --max-restarts and --node-rank must be at least 0.")
    if options.ray and options.nnodes != "1":
        raise ConfigError("With --ray, Ray chooses the hosts. Leave out --nnodes; --nproc is the number of workers.")
    if options.nnodes != "1" and not options.rdzv:
        raise ConfigError(f"--nnodes {options.nnodes} needs --rdzv HOST:PORT, where the hosts meet: that of host 0.")


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _run(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run torchrun, pass signals on to it, and end as it does.

    It has a session of its own: the Ctrl-C of a terminal would reach it a second time, and the second one acts at once.
    """
    child = subprocess.Popen(command, env=dict(variables), start_new_session=True)
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if received:
        raise SystemExit(128 + received[0])
    if status != 0:
        raise WorldlineError(
            f"Training failed (torchrun ended with {status}); the first error above says why. Once that is "
            "mended, the same command with --resume goes on from the newest checkpoint."
        )
