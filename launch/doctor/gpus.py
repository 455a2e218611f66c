"""Checks of the GPUs: their number, their health by nvidia-smi, and how fast and right each multiplies."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from launch.doctor.host import FAIL, OK, WARN, CheckResult
from model.errors import UserError, counted
from train.dist.collectives import require_no_gpu_promised

HOT_CELSIUS = 88
NVIDIA_SMI = ("index", "name", "ecc.errors.uncorrected.volatile.total", "temperature.gpu", "memory.used")
BUSY_MIB = 1000
SPEED = "GPU speed"
SLOW_SHARE = 0.8


def gpus(local_size: int) -> Iterator[CheckResult]:
    """As many as ranks, and what nvidia-smi says of their health."""
    on_cpu = os.environ.get("DS_ACCELERATOR") == "cpu"
    if on_cpu or not torch.cuda.is_available():
        try:
            if not on_cpu:
                require_no_gpu_promised(os.environ)
            yield CheckResult("GPUs", OK, "none, this trains on the CPU")
        except UserError as error:
            yield CheckResult("GPUs", FAIL, str(error))
        return
    count = torch.cuda.device_count()
    text = f"{count} x {torch.cuda.get_device_name(0)} for {counted(local_size, 'rank')}"
    few = count < local_size
    todo = "right if each rank sees its own alone (--gpus-per-task)" if few else ""
    yield CheckResult("GPUs", WARN if few else OK, text, todo)
    yield from health(_ask_nvidia_smi())


def gpu_speed(device: torch.device, size: int = 4096) -> CheckResult:
    """Whether this rank's GPU multiplies matrices correctly, and how fast; the slowest GPU sets the pace of all."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    off = ((left.to(device) @ right.to(device)).cpu() - left @ right).abs().max().item()
    if not off < 1.0:  # TF32 rounds to some hundredths
        text = f"GPU {device.index}: a product of matrices is off by {off:.3g}"
        return CheckResult(SPEED, FAIL, text, "it computes wrong: drain this host")
    big = torch.ones(size, size, dtype=torch.bfloat16, device=device)
    seconds = seconds_of(device, lambda: torch.mm(big, big), 5)
    text = f"a product of {size} x {size} in bfloat16"
    return CheckResult(SPEED, OK, text, figure=2 * size**3 / min(seconds) / 1e12, unit="TFLOP/s")


def slow_gpus(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Of all ranks' `gpu_speed`: a warning for each GPU that is far behind the median."""
    speeds = [(result.figure, result) for result in results if result.check == SPEED and result.figure is not None]
    usual = statistics.median([speed for speed, _ in speeds]) if speeds else 0.0
    what = f"below {SLOW_SHARE:.0%} of the median of {usual:.3g}"
    todo = "look at its clocks and temperature (nvidia-smi -q -d PERFORMANCE)"
    slow = [result for speed, result in speeds if speed < SLOW_SHARE * usual]
    return [replace(result, level=WARN, what=what, todo=todo) for result in slow]


def seconds_of(device: torch.device, work: Callable[[], object], times: int) -> list[float]:
    """Of each of so many calls, the device's own work waited for."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def _ask_nvidia_smi() -> str:
    """Its table; "" where there is none, "hangs" where it does not answer."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", f"--query-gpu={','.join(NVIDIA_SMI)}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except subprocess.TimeoutExpired:
        return "hangs"


def health(answer: str) -> Iterator[CheckResult]:
    """Errors, heat and used memory in nvidia-smi's table, a line a GPU."""
    if answer == "hangs":
        todo = "a GPU has fallen off: drain this host"
        yield CheckResult("GPU health", FAIL, "nvidia-smi gives no answer in 30 s", todo)
        return
    healthy = bool(answer.strip())
    for line in answer.strip().splitlines():
        number, name, errors, celsius, used = (part.strip() for part in line.split(",", 4))
        for value, least, level, what, todo in (
            (errors, 1, FAIL, f"({name}) has {errors} uncorrected memory errors", "drain this host and reset the GPU"),
            (celsius, HOT_CELSIUS, WARN, f"is at {celsius} °C", "it slows down: look at its cooling"),
            (used, BUSY_MIB + 1, WARN, f"holds {used} MiB already", "nvidia-smi names the process"),
        ):
            if value.isdecimal() and int(value) >= least:
                healthy = False
                yield CheckResult("GPU health", level, f"GPU {number} {what}", todo)
    if healthy:
        yield CheckResult("GPU health", OK, "no memory errors, cool, empty")
