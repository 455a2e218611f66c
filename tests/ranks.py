"""Runs `python -m train` on one or more ranks, quickly: forked from a server that has the imports behind it."""

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAVY = ["torch", "deepspeed", "transformers", "train.loop", "train.run", "torch.optim", "jiwer"]
_context: Any = None


@dataclass
class Ranks:
    """Running ranks of one training."""

    processes: list[Any]
    log: Path

    def wait(self, seconds: float = 120) -> list[int]:
        """Exit codes, negative for a signal; what is left after `seconds` is killed and fails the test."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hanging = [process for process in self.processes if process.is_alive()]
        for process in hanging:
            process.kill()
        assert not hanging, f"ranks hang after {seconds} s:\n{self.text()}"
        return [process.exitcode for process in self.processes]

    def text(self) -> str:
        """All that the ranks wrote."""
        return self.log.read_text()


def start(arguments: Sequence[str], ranks: int, log: Path) -> Ranks:
    """Starts the ranks of `python -m train ARGUMENTS`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in env.items()}
        processes.append(
            _fork_server().Process(target=_rank, args=(list(arguments), environment, str(log)), daemon=True)
        )
        processes[-1].start()
    return Ranks(processes, log)


def train(arguments: Sequence[str], ranks: int, log: Path, expected: int = 0) -> str:
    """Runs the ranks to their end and returns what they wrote; fails unless all exit with `expected`."""
    running = start(arguments, ranks, log)
    codes = running.wait()
    assert codes == [expected] * ranks, f"exit codes {codes}:\n{running.text()}"
    return running.text()


def losses(run: Path, kind: str = "train", figure: str = "loss") -> list[float]:
    """A figure of metrics.jsonl, report after report."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[figure] for line in lines if line["kind"] == kind]


def _fork_server() -> Any:
    global _context
    if _context is None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(HEAVY)
    return _context


def _rank(arguments: list[str], environment: dict[str, str], log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ |= environment
    import torch

    from train.__main__ import main

    torch.set_num_threads(1)
    sys.exit(main(arguments))
