"""What of our environment ranks on other hosts need, and how it gets there.

pdsh carries nothing, deepspeed a few names and what an environment file holds (DS_ENV_FILE, else .deepspeed_env), by
`export NAME="VALUE";` on the remote command line: visible to everyone there by `ps`, and in deepspeed's log here.
So a secret goes another way, by a file that the remote shell sources and that only its owner can read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import UserError

PREFIXES = ("HF_", "TORCH_", "NCCL_", "GLOO_", "CUDA_", "SLAM_ASR_", "UCX_", "MV2_", "MLFLOW_")
NAMES = ("OMP_NUM_THREADS", "DS_ACCELERATOR")
OF_THIS_HOST = ("CUDA_VISIBLE_DEVICES", "SLAM_ASR_LAUNCH")
"""Not carried: a hostfile's slots say which devices; the mark is given anew."""
BY_DEEPSPEED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
"""What deepspeed puts on the command line by itself."""
SECRET = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|KEY")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OWN_FILE = ".deepspeed_env"


@dataclass
class Carried:
    """Environment for the ranks on other hosts."""

    plain: dict[str, str] = field(default_factory=dict)
    secret: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """Names that look like secrets and were not asked for."""


def looks_secret(name: str) -> bool:
    return SECRET.search(name.upper()) is not None


def named(options: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that --env options give, `NAME=VALUE`, or `NAME` with its value here."""
    given = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not NAME.fullmatch(name):
            raise UserError(f"--env {option!r}: {name!r} is no variable's name; give NAME or NAME=VALUE")
        if not equals and name not in environment:
            raise UserError(f"--env {name}: it is not set here; set it, or give {name}=VALUE")
        given[name] = value if equals else environment[name]
    return given


def carried(environment: Mapping[str, str], given: Mapping[str, str]) -> Carried:
    """What goes to the other hosts: what is known to matter there, and what was `given` by --env."""
    found = Carried()
    for name, value in environment.items():
        matters = (name in NAMES or name.startswith(PREFIXES)) and name not in OF_THIS_HOST
        if matters and name not in given and NAME.fullmatch(name):
            if looks_secret(name):
                found.left.append(name)
            else:
                found.plain[name] = value
    for name, value in given.items():
        (found.secret if looks_secret(name) else found.plain)[name] = value
    return found


def withheld(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets that deepspeed would show by itself: it must not have them."""
    return tuple(name for name in environment if name.startswith(BY_DEEPSPEED) and looks_secret(name))


def to_file(variables: Mapping[str, str], own: Sequence[str] = ()) -> str:
    """The environment file. `own` are lines of the person's own such file; what is carried comes after them."""
    return "".join(f"{line}\n" for line in [*own, *(_line(*item) for item in variables.items())])


def _line(name: str, value: str) -> str:
    """deepspeed puts `"` around what is not plain, then pdsh reads %, then a shell what is special within `"`."""
    if not value.isprintable() or value != value.strip():
        raise UserError(
            f"{name} is {value[:60]!r}; line breaks, control characters and spaces at its ends do not get to other "
            "hosts; change it or unset it"
        )
    return f"{name}=" + re.sub(r'([\\"$`])', r"\\\1", value).replace("%", "%%")


def own_lines(environment: Mapping[str, str]) -> list[str]:
    """The lines of the environment file that deepspeed would have read without us, as they are."""
    name = environment.get("DS_ENV_FILE", OWN_FILE)
    paths = dict.fromkeys([Path(os.path.expanduser("~")) / name, Path(name).absolute()])
    lines = []
    for path in paths:
        if path.is_file():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if line.strip() and not line.lstrip().startswith("#"):
                    if not NAME.fullmatch(line.partition("=")[0].strip()) or "=" not in line:
                        raise UserError(f"{path} line {number}: {line[:60]!r} is not NAME=VALUE; correct it")
                    lines.append(line.strip())
    return lines
