"""What one host has to offer: disk, ports, compilation locks, GPUs. Each check gives findings and changes nothing."""

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.figures import counted, in_units
from data_prep.paths import free_bytes, nearest_folder
from launch.doctor.finding import FAIL, OK, WARN, Finding
from train.recipe.config import Config

if TYPE_CHECKING:
    import torch

CHECKPOINT_BYTES = 300e6
"""Adapter and AdamW's moments of 21 M parameters in float32 (258 MB), and some."""
OLD_LOCK_SECONDS = 60.0
HOT_CELSIUS = 88
NVIDIA_SMI = ("index", "name", "ecc.errors.uncorrected.volatile.total", "temperature.gpu", "memory.used")
BUSY_MIB = 1000
SPEED = "GPU speed"
SLOW_SHARE = 0.8


def disk(config: Config) -> Iterator[Finding]:
    """Room for checkpoints where the run keeps them, for copies of shards, and for temporary files."""
    run = Path(config.run.dir)
    saves = 2 if config.save.total_limit is None else config.save.total_limit + 2
    yield _room("run.dir", run, 2 * CHECKPOINT_BYTES, saves * CHECKPOINT_BYTES, "make room, or give another run.dir")
    yield _writable(run)
    if config.data.write_features:
        kept = Path(config.data.write_features)
        yield _room("data.write_features", kept, 1e9, 100e9, "`slam-asr plan` says how much the frames need")
    yield _room("temporary files", Path(tempfile.gettempdir()), 100e6, 1e9, "make room, or set TMPDIR")


def _room(what: str, folder: Path, least: float, enough: float, todo: str) -> Finding:
    free = free_bytes(folder)
    level = FAIL if free < least else WARN if free < enough else OK
    wanted = f", {in_units(round(enough))} are wanted" if level != OK else ""
    said = f"{what}: room in {folder}{wanted}"
    return Finding("disk", level, said, todo if level != OK else "", figure=free / 1e9, unit="GB")


def _writable(folder: Path) -> Finding:
    there = nearest_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("disk", FAIL, f"run.dir: cannot write in {there}: {error.strerror}", "give another run.dir")
    return Finding("disk", OK, f"run.dir: can be written in {there}")


def locks(folder: Path | None = None, seconds: float = OLD_LOCK_SECONDS) -> Iterator[Finding]:
    """Locks of torch's compiler that no process here holds: whoever needs the same operator waits for ever."""
    if folder is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch_extensions"
        folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR", home))
    stale = []
    for lock in folder.glob("**/lock"):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > seconds and not _held(lock):
                stale.append(lock)
    for lock in stale:
        yield Finding("locks", FAIL, f"{lock} is left from a build that was killed", f"rm {lock}")
    if not stale:
        yield Finding("locks", OK, "no lock of a killed compilation")


def _held(file: Path) -> bool:
    wanted = str(file.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(link) == wanted for link in (process / "fd").iterdir()):
                return True
    return False


def port(number: str) -> Finding:
    """Whether rank 0 can listen where the others will look for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        try:
            probe.bind(("", int(number)))
        except OSError as error:
            said = f"MASTER_PORT {number} cannot be listened on: {error.strerror}"
            return Finding("ports", FAIL, said, "give another MASTER_PORT")
    return Finding("ports", OK, f"MASTER_PORT {number} is free")


def gpus(local_size: int) -> Iterator[Finding]:
    """As many as ranks, and what nvidia-smi says of their health."""
    import torch

    from model.errors import UserError
    from train.dist.device import require_no_gpu_promised

    if os.environ.get("DS_ACCELERATOR") == "cpu" or not torch.cuda.is_available():
        try:
            if os.environ.get("DS_ACCELERATOR") != "cpu":
                require_no_gpu_promised(os.environ)
        except UserError as error:
            yield Finding("GPUs", FAIL, str(error))
            return
        yield Finding("GPUs", OK, "none, this trains on the CPU")
        return
    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name(0)
    level = OK if count >= local_size else WARN
    todo = "" if level == OK else "right if each rank sees its own alone (--gpus-per-task)"
    yield Finding("GPUs", level, f"{count} x {name} for {counted(local_size, 'rank')}", todo)
    yield from health(_ask_nvidia_smi())


def gpu_speed(device: "torch.device", size: int = 4096) -> Finding:
    """Whether this rank's GPU multiplies right, and how fast: one that is slower than the others slows them all."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    off = ((left.to(device) @ right.to(device)).cpu() - left @ right).abs().max().item()
    if not off < 1.0:  # TF32 rounds to some hundredths
        said = f"GPU {device.index}: a product of matrices is off by {off:.3g}"
        return Finding(SPEED, FAIL, said, "it computes wrong: drain this host")
    big = torch.ones(size, size, dtype=torch.bfloat16, device=device)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(big, big)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    said = f"a product of {size} x {size} in bfloat16"
    return Finding(SPEED, OK, said, figure=2 * size**3 / min(seconds) / 1e12, unit="TFLOP/s")


def slow_gpus(found: Sequence[Finding]) -> list[Finding]:
    """Of all ranks' `gpu_speed`: the GPUs that are far behind the median, by host."""
    fast = [one for one in found if one.check == SPEED and one.figure is not None]
    usual = statistics.median([one.figure or 0.0 for one in fast]) if fast else 0.0
    todo = "look at its clocks and temperature (nvidia-smi -q -d PERFORMANCE)"
    return [
        Finding(
            SPEED, WARN, f"below {SLOW_SHARE:.0%} of the median of {usual:.3g}", todo, one.where, one.figure, one.unit
        )
        for one in fast
        if (one.figure or 0.0) < SLOW_SHARE * usual
    ]


def _ask_nvidia_smi() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = f"--query-gpu={','.join(NVIDIA_SMI)}"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except subprocess.TimeoutExpired:
        return "hangs"


def health(said: str) -> Iterator[Finding]:
    """What nvidia-smi's table, a line a GPU, tells of errors, heat and others' memory."""
    if said == "hangs":
        yield Finding("GPU health", FAIL, "nvidia-smi gives no answer in 30 s", "a GPU has fallen off: drain this host")
        return
    wrong = 0
    for line in said.strip().splitlines():
        number, name, errors, celsius, used = (part.strip() for part in line.split(",", 4))
        if errors.isdecimal() and int(errors):
            wrong += 1
            what = f"GPU {number} ({name}) has {errors} uncorrected memory errors"
            yield Finding("GPU health", FAIL, what, "drain this host and reset the GPU")
        if celsius.isdecimal() and int(celsius) >= HOT_CELSIUS:
            wrong += 1
            yield Finding("GPU health", WARN, f"GPU {number} is at {celsius} °C", "it slows down: look at its cooling")
        if used.isdecimal() and int(used) > BUSY_MIB:
            wrong += 1
            yield Finding("GPU health", WARN, f"GPU {number} holds {used} MiB already", "see nvidia-smi for whose")
    if said.strip() and not wrong:
        yield Finding("GPU health", OK, "no memory errors, cool, empty")
