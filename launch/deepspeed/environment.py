"""Environment variables for ranks on other hosts.

pdsh carries none, and deepspeed only those of a few names, on command lines that everybody sees in `ps`. So a file in
RUN/launch/, which only its owner may read, is sourced by the remote shells.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import UserError

PREFIXES = ("HF_", "TORCH_", "NCCL_", "GLOO_", "CUDA_", "SLAM_ASR_", "UCX_", "MV2_", "MLFLOW_")
NAMES = ("OMP_NUM_THREADS", "DS_ACCELERATOR")
BY_DEEPSPEED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
"""deepspeed puts variables of these prefixes on its command lines."""
OF_A_RANK = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""Inherited from a launcher that started this process, they would make `deepspeed` itself look like a rank."""
SECRET = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|KEY", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def named(options: Sequence[str]) -> dict[str, str]:
    """The variables of --env options: `NAME=VALUE`, or `NAME` with its value here."""
    variables = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not NAME.fullmatch(name):
            raise UserError(f"--env {option!r}: {name!r} is no variable's name; give NAME or NAME=VALUE")
        if not equals and name not in os.environ:
            raise UserError(f"--env {name}: it is not set here; set it, or give {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    return variables


def of_deepspeed(over_ssh: bool = False) -> dict[str, str]:
    """The environment of `deepspeed`: over ssh without secrets that it would put on a command line."""
    shown = {name for name in os.environ if over_ssh and name.startswith(BY_DEEPSPEED) and SECRET.search(name)}
    return {name: value for name, value in os.environ.items() if name not in OF_A_RANK | shown}


def write_exports(run: Path, given: Mapping[str, str], without_secrets: bool) -> Path:
    """RUN/launch/exports.sh: the variables that matter on other hosts, and those `given`.

    What looks secret is carried only if given. Devices are not carried: a hostfile's slots choose them.
    """
    matter = {name for name in os.environ if name in NAMES or name.startswith(PREFIXES) if NAME.fullmatch(name)}
    matter -= {"CUDA_VISIBLE_DEVICES", *given}
    if secret := sorted(filter(SECRET.search, matter)):
        print(f"launch: not carried, they look secret (--env NAME carries one): {', '.join(secret)}", file=sys.stderr)
    variables = {name: os.environ[name] for name in matter.difference(secret)} | dict(given)
    path = run.absolute() / "launch" / "exports.sh"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        for name, value in variables.items():
            if not (without_secrets and SECRET.search(name)):
                file.write(f"export {name}={shlex.quote(value)}\n")
    return path
