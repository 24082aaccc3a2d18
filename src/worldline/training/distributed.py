"""Several processes that train one model: who is who, and what they tell each other.

`torchrun` (or `worldline launch`) starts the processes and tells each its place in environment variables; `join` reads
them. Messages on the CPU go through gloo, tensors on CUDA through NCCL. What is sent are numbers and JSON: nothing is
unpickled.

A process without these variables is alone. Then nothing here is called while it trains.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldline import seeding
from worldline.device import resolve_device
from worldline.errors import ConfigError, FileError, WorldlineError
from worldline.training.checkpoint import Checkpoint, ReadCheckpoint

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together.

    Methods that talk must be called by all processes, in the same order.
    """

    rank: int = 0  # from 0
    num_ranks: int = 1
    local_rank: int = 0  # among the processes of this machine: the index of its accelerator

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.num_ranks == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files, prints and logs."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device of this process: of several that share a machine, each has a GPU of its own.

        Raises:
            ConfigError: The device is not here, or one that several processes cannot have.
        """
        if self.is_alone:
            return resolve_device(name)
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name not in ("cuda", "cpu"):
            raise ConfigError(
                f"device is {name!r}, but {self.num_ranks} processes train together. Use 'auto', 'cuda' (a GPU for "
                "each process of a machine) or 'cpu'."
            )
        if name == "cpu":
            return name
        if self.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"Every process of a machine needs a GPU of its own; this is process {self.local_rank + 1} here, and "
                f"{torch.cuda.device_count()} were found. Start fewer (--nproc), or use device='cpu'."
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    def seed(self, seed: int) -> int:
        """Return the seed of this process's noise; that of the first is `seed` itself, as without others."""
        return seed if self.rank == 0 else int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0])

    def first(self, compute: Callable[[], T]) -> T:
        """Return in every process what `compute` returns in the first one, the only one to call it: JSON values.

        A `WorldlineError` that it raises there is raised everywhere.
        """
        if self.is_alone:
            return compute()
        message: dict[str, Any] = {}
        error: WorldlineError | None = None
        if self.is_main:
            try:
                message = {"value": compute()}
            except WorldlineError as raised:
                message, error = {"error": str(raised)}, raised
        data = json.dumps(message, default=float).encode() if self.is_main else b""
        size = torch.tensor(len(data))
        dist.broadcast(size, 0)
        buffer = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()) if self.is_main else _empty(int(size))
        dist.broadcast(buffer, 0)
        if error is not None:
            raise error
        message = json.loads(buffer.numpy().tobytes())
        if "error" in message:
            raise FileError(message["error"])
        value: T = message["value"]
        return value

    def wait(self) -> None:
        """Go on when all processes are here."""
        if not self.is_alone:
            dist.all_reduce(torch.zeros(()))

    def gather(self, value: Any) -> list[Any]:
        """Return what every process passes (JSON values), in their order."""
        if self.is_alone:
            return [value]
        data = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.num_ranks)]
        dist.all_gather(sizes, torch.tensor(len(data)))
        longest = max(int(size) for size in sizes)
        padded = torch.from_numpy(np.pad(data, (0, longest - len(data))))
        gathered = [_empty(longest) for _ in range(self.num_ranks)]
        dist.all_gather(gathered, padded)
        return [json.loads(part[: int(size)].numpy().tobytes()) for part, size in zip(gathered, sizes, strict=True)]


ALONE = Ranks()


def join() -> Ranks:
    """Return this process's place, and connect to the others when it is called first.

    Raises:
        ConfigError: The environment says that there are others, but not how to reach them.
    """
    if not dist.is_available():
        return ALONE
    if not dist.is_initialized():
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return ALONE
        if missing := [name for name in _VARIABLES if name not in os.environ]:
            raise ConfigError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} are not set. Start several "
                "processes with worldline launch or torchrun, or unset WORLD_SIZE to train in one."
            )
        with_cuda = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo")
        atexit.register(_leave)
    if dist.get_world_size() == 1:
        return ALONE
    rank = dist.get_rank()
    return Ranks(rank, dist.get_world_size(), int(os.environ.get("LOCAL_RANK", rank)))


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


ASKED_TO_STOP = 1  # in a vote; 0 is nothing, and every larger number is that of a signal


class StopVote:
    """Whether any process wants to stop, which all of them know one step later.

    Nobody waits: the message travels while the next step is computed. So all processes do the same number of steps,
    one more than a single process would.

    Attributes:
        known: The largest wish that all know of, 0 for none; of a process that is alone its own.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.known = 0
        self._is_alone = ranks.is_alone
        self._wish = torch.zeros((), dtype=torch.int64)
        self._sent: dist.Work | None = None

    def send(self, reason: str | None, received: signal.Signals | None) -> None:
        """Tell all others of this process's wish, if any."""
        wish = int(received or (reason is not None and ASKED_TO_STOP))
        if self._is_alone:
            self.known = wish
            return
        self._wish.fill_(wish)
        self._sent = dist.all_reduce(self._wish, dist.ReduceOp.MAX, async_op=True)

    def receive(self) -> int:
        """Return the largest wish that all have sent; 0 to a process that is alone, which need not be told."""
        if self._sent is not None:
            self._sent.wait()
            self._sent = None
            self.known = int(self._wish)
        return 0 if self._is_alone else self.known


def gather_rng(ranks: Ranks, device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators of all processes, for a checkpoint.

    Those of the first process have the names of `seeding.rng_state`, so that one process alone can go on with them;
    those of process r are "rankR/cpu" and "rankR/device", the one it computes on.
    """
    own = seeding.rng_state()
    if ranks.is_alone:
        return own
    sent = {"cpu": own["cpu"].tolist()}
    if device.type == "cuda":
        sent["device"] = own[f"cuda{device.index}"].tolist()
    gathered = ranks.gather(None if ranks.is_main else sent)
    for rank, states in enumerate(gathered):
        if rank > 0:
            own |= {f"rank{rank}/{name}": torch.tensor(state, dtype=torch.uint8) for name, state in states.items()}
    return own


def own_rng(
    ranks: Ranks, device: torch.device, saved: Mapping[str, Tensor], *, seed: int, step: int
) -> dict[str, Tensor]:
    """Return the states that this process goes on with, of those that `gather_rng` returned.

    A process that was not there when they were saved begins a stream of its own, which depends on the step as well.
    """
    if ranks.is_main:
        return {name: state for name, state in saved.items() if not name.startswith("rank")}
    prefix = f"rank{ranks.rank}/"
    if f"{prefix}cpu" not in saved:
        with seeding.isolated(int(np.random.SeedSequence((seed, ranks.rank, step)).generate_state(1)[0])):
            return seeding.rng_state()
    states = {"cpu": saved[f"{prefix}cpu"]}
    if device.type == "cuda" and f"{prefix}device" in saved:
        states[f"cuda{device.index}"] = saved[f"{prefix}device"]
    return states


def load_everywhere(ranks: Ranks, read: ReadCheckpoint, model: nn.Module) -> Checkpoint:
    """Return the checkpoint for `model` that the first process reads; the others get it from that process.

    So all processes go on from the same step, and only the first one needs the folder.

    Raises:
        FileError: There is no valid one.
        DataError: It is of another model.
    """
    if ranks.is_alone:
        return read(model)
    tensors: dict[str, Mapping[str, Tensor]] = {}

    def outline_of_first() -> dict[str, Any]:
        checkpoint = read(model)
        values = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
        tensors.update({name: value for name, value in values.items() if _holds_tensors(value)})
        outline = {
            name: [[key, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for key, tensor in value.items()]
            for name, value in tensors.items()
        }
        plain = {name: value for name, value in values.items() if name not in tensors}
        return {"plain": {**plain, "path": str(checkpoint.path)}, "outline": outline}

    message = ranks.first(outline_of_first)
    received: dict[str, dict[str, Tensor]] = {}
    for name, entries in message["outline"].items():
        received[name] = {}
        for key, dtype, shape in entries:
            tensor = tensors[name][key].contiguous() if ranks.is_main else torch.empty(shape, dtype=_DTYPES[dtype])
            send_from_first(tensor)
            received[name][key] = tensor
    plain = message["plain"]
    return Checkpoint(**{**plain, **received, "path": Path(plain["path"])})


def send_from_first(tensor: Tensor) -> None:
    """Copy a tensor of the first process, of any type and layout, into those of the others."""
    if tensor.numel():
        sent = tensor.detach().contiguous()
        dist.broadcast(sent.view(-1).view(torch.uint8), 0)
        if not tensor.is_contiguous():
            tensor.detach().copy_(sent)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _empty(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
