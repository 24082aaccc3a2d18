"""Train on a SLURM cluster: submit a job that runs `worldline launch` once on every node.

    pip install 'worldline[slurm]'
    python examples/cluster/slurm.py --nodes 2 --gpus 4 --partition gpu -- \
        dreamerv3:size25m --data /shared/data.npz --out /shared/runs/a --total-steps 100000

The folders must be on a file system that all nodes share. A job that is preempted, or reaches its time limit, is
submitted again by SLURM and goes on at its newest checkpoint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

PORT = 29400


class Launch:
    """What submitit runs on every node of the job."""

    def __init__(self, nodes: int, gpus: int, command: Sequence[str]) -> None:
        self.nodes, self.gpus, self.command = nodes, gpus, list(command)

    def __call__(self) -> None:
        import submitit

        node = submitit.JobEnvironment().node
        hosts = submitit.JobEnvironment().hostnames
        subprocess.run(self.arguments(node, hosts[0]), check=True)

    def arguments(self, node: int, first_host: str) -> list[str]:
        """Return the command of one node."""
        places = ["--nnodes", str(self.nodes), "--node-rank", str(node), "--rdzv", f"{first_host}:{PORT}"]
        several = places if self.nodes > 1 else []
        # --resume also for the first time: there is nothing to resume then, and whoever submits again need not add it.
        train = ["train", *self.command, "--resume"]
        return [sys.executable, "-m", "worldline", "launch", "--nproc", str(self.gpus), *several, "--", *train]

    def checkpoint(self) -> object:
        """Submit the same again: called by submitit when SLURM takes the nodes away."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def main(arguments: Sequence[str]) -> None:
    """Submit the job and print its number."""
    import submitit

    parser = argparse.ArgumentParser(description="Train on a SLURM cluster.")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1, help="of each node")
    parser.add_argument("--cpus", type=int, default=8, help="of each GPU")
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--partition", default=None)
    parser.add_argument("--logs", default="slurm_logs/%j")
    place = list(arguments).index("--")
    options = parser.parse_args(arguments[:place])
    executor = submitit.AutoExecutor(folder=options.logs)
    executor.update_parameters(
        nodes=options.nodes,
        tasks_per_node=1,  # worldline launch starts the processes of its node itself
        cpus_per_task=options.cpus * options.gpus,
        gpus_per_node=options.gpus,
        timeout_min=round(60 * options.hours),
        slurm_partition=options.partition,
        slurm_signal_delay_s=120,  # SIGUSR2 comes that long before the time limit
    )
    job = executor.submit(Launch(options.nodes, options.gpus, arguments[place + 1 :]))
    print(job.job_id)


if __name__ == "__main__":
    main(sys.argv[1:])
