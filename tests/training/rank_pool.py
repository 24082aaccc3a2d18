"""Processes that stay for a whole module of tests and form groups of any size: starting one costs seconds."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

_SECONDS = 120


class Rendezvous:
    """Where the processes of one group find each other: the store is here, so that no port is guessed."""

    def __init__(self, num_ranks: int) -> None:
        import torch.distributed as dist

        self._num_ranks = num_ranks
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def environment(self, rank: int) -> dict[str, str]:
        """Return what `torchrun` would set for a process."""
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self._num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }


class RankPool:
    """Processes, started when a `run` first needs so many, and again after a failure.

    `run(function, num_ranks)` calls a function of an importable module in every process of a new group.
    """

    def __init__(self) -> None:
        self._workers: list[tuple[BaseProcess, Connection]] = []

    def _start(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self._workers) < size:
            own, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, own))

    def run(self, function: Callable[..., Any], num_ranks: int, **arguments: Any) -> list[Any]:
        """Return what `function(**arguments)` returned in each process, in the order of their ranks."""
        self._start(num_ranks)
        rendezvous = Rendezvous(num_ranks)
        pipes = {own: rank for rank, (_, own) in enumerate(self._workers[:num_ranks])}
        for pipe, rank in pipes.items():
            pipe.send((rendezvous.environment(rank), function.__module__, function.__qualname__, arguments))
        results: dict[int, Any] = {}
        while pipes:
            ready = wait(list(pipes), timeout=_SECONDS)
            if not ready:
                self.close()
                raise TimeoutError(f"Processes {sorted(pipes.values())} did not answer.")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = pipes.pop(pipe)
                error, results[rank] = pipe.recv()
                if error is not None:
                    self.close()
                    raise AssertionError(f"Process {rank} failed:\n{error}")
        return [results[rank] for rank in range(num_ranks)]

    def close(self) -> None:
        for process, own in self._workers:
            process.kill()
            process.join()
            own.close()
        self._workers = []  # the next test gets new ones


def _work(pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            environment, module, name, arguments = pipe.recv()
        except EOFError:
            return
        os.environ.update(environment)
        try:
            result = getattr(importlib.import_module(module), name)(**arguments)
            pipe.send((None, result))
        except BaseException:  # noqa: BLE001 - whatever it is, the test shall show it
            pipe.send((traceback.format_exc(), None))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
