"""Runs `python -m train` on one or more ranks, quickly: forked from a server that has the imports behind it.

Or slowly, through the real `deepspeed` launcher.
"""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HANGS_AFTER = 900.0
"""Seconds after which a process that should have ended, or come to something, is taken for one that hangs: so long that
no busy machine is slow enough."""
HEAVY = [
    *("torch", "deepspeed", "deepspeed.ops.op_builder.all_ops", "torch.optim", "torch._dynamo", "jiwer", "train.loop"),
    *("deepspeed.module_inject.auto_ep_layer", "numpy.ctypeslib", "train.recipe.deepspeed_json"),
    "deepspeed.runtime.zero.muon.muon_optimizer",  # imported under ZeRO; torch.compile, in it, imports torch._inductor
    *("train.open_run", "soundfile", "miniaudio", "webdataset", "safetensors.torch", "transformers.generation"),
    *(f"transformers.models.auto.{name}_auto" for name in ("modeling", "tokenization", "feature_extraction")),
    *("transformers.models.hubert.modeling_hubert", "transformers.models.llama.modeling_llama"),
    *("transformers.models.wav2vec2.feature_extraction_wav2vec2", "transformers.tokenization_utils_tokenizers"),
    *("peft", "tests.preloaded"),
]
"""What a rank imports, some of it lazily: most of its seconds, so the server that ranks are forked from has it."""
_context: Any = None


@dataclass
class Ranks:
    """Running ranks of one training."""

    processes: list[Any]
    log: Path

    def wait(self, seconds: float = HANGS_AFTER) -> list[int]:
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


def start(
    arguments: Sequence[str],
    ranks: int,
    log: Path,
    before: Callable[[int], None] | None = None,
    own: Mapping[int, Sequence[str]] | None = None,
) -> Ranks:
    """Starts the ranks of `python -m train ARGUMENTS`.

    `before` (accidents.py) is called in each with its rank, before it trains; `own` are arguments of one rank alone.
    """
    port = free_port()
    processes = []
    for rank in range(ranks):
        environment = _environment(rank, ranks, port)
        given = [*arguments, *(own or {}).get(rank, [])]
        processes.append(fork_server().Process(target=_rank, args=(given, environment, str(log), before), daemon=True))
        processes[-1].start()
    return Ranks(processes, log)


def start_under_launcher(arguments: Sequence[str], ranks: int, log: Path) -> Any:
    """Starts a process that forks the ranks of `python -m train ARGUMENTS` and waits for them, as a launcher does."""
    process = fork_server().Process(target=_launcher, args=(list(arguments), ranks, free_port(), str(log)))
    process.start()
    return process


def start_verb(words: Sequence[str], ranks: int, logs: Sequence[Path], own: Mapping[int, Sequence[str]]) -> list[Any]:
    """Starts `slam-asr WORDS` as ranks that write into a log each; `own` are words of one rank alone."""
    port, processes = free_port(), []
    for rank in range(ranks):
        given = [*words, *own.get(rank, [])]
        arguments = (given, _environment(rank, ranks, port), str(logs[rank]))
        processes.append(fork_server().Process(target=_verb, args=arguments, daemon=True))
        processes[-1].start()
    return processes


def train(
    arguments: Sequence[str], ranks: int, log: Path, expected: int = 0, before: Callable[[int], None] | None = None
) -> str:
    """Runs the ranks to their end and returns what they wrote; fails unless all exit with `expected`."""
    running = start(arguments, ranks, log, before)
    codes = running.wait()
    assert codes == [expected] * ranks, f"exit codes {codes}:\n{running.text()}"
    return running.text()


def launch(arguments: Sequence[str], ranks: int, log: Path) -> "subprocess.Popen[bytes]":
    """Starts the real `deepspeed` command, which starts launch.py, which starts the ranks; all write into `log`."""
    command = [str(Path(sys.executable).parent / "deepspeed"), "--num_accelerators", str(ranks)]
    command += ["--master_port", str(free_port()), "--module", "train", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with open(log, "ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def children(pid: int) -> list[int]:
    """The processes that a process has started, in that order."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def writers(log: Path) -> list[int]:
    """The living processes that hold `log` open: those of a run, whoever their parents are now."""
    wanted, found = str(log.resolve()), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if int(process.name) != os.getpid() and wanted in map(_target, (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""


def wait_until_none_is_left(log: Path, seconds: float = HANGS_AFTER) -> None:
    """Fails, and kills them, if processes of a run are left after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := writers(log):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, 9)
            raise AssertionError(f"processes {left} are left after {seconds} s:\n{log.read_text()}")
        time.sleep(0.1)  # a look at every process takes some 7 ms of CPU


def wait_for_step(run: Path, step: int, seconds: float = HANGS_AFTER) -> None:
    """Until metrics.jsonl tells of that step."""
    deadline = time.monotonic() + seconds
    while last_step(run) < step:
        assert time.monotonic() < deadline, f"{run} did not reach step {step}"
        time.sleep(0.01)


def last_step(run: Path) -> int:
    """The newest step that metrics.jsonl tells of; 0 before the first."""
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8000))
            lines = file.read().decode().splitlines(keepends=True)
    except OSError:
        return 0
    return max((json.loads(line)["step"] for line in lines[-4:] if line.endswith("\n")), default=0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def losses(run: Path, kind: str = "train", figure: str = "loss") -> list[float]:
    """A figure of metrics.jsonl, report after report."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[figure] for line in lines if line["kind"] == kind]


def fork_server() -> Any:
    """Where processes come from that have the imports behind them."""
    global _context
    if _context is None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(HEAVY)
    return _context


def _environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in env.items()}


def _launcher(arguments: list[str], ranks: int, port: int, log: str) -> None:
    _write_into(log)
    for rank in range(ranks):
        if os.fork() == 0:
            try:
                _rank(arguments, _environment(rank, ranks, port), log)
            finally:
                os._exit(1)
    while ranks:
        os.wait()
        ranks -= 1


def _rank(
    arguments: list[str], environment: dict[str, str], log: str, before: Callable[[int], None] | None = None
) -> None:
    _write_into(log)
    os.environ |= environment
    import torch

    from train.__main__ import leave, main

    torch.set_num_threads(1)
    if before:
        before(int(environment["RANK"]))
    leave(main(arguments))


def _verb(words: list[str], environment: dict[str, str], log: str) -> None:
    _write_into(log)
    os.environ |= environment
    from launch.command import main

    sys.exit(main(words))


def _write_into(log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
