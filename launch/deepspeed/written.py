"""RUN/launch/: what a launch hands to `deepspeed`, so that what is run is what is written there."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError

if TYPE_CHECKING:
    from train.recipe.config import Config

SAFE = re.compile(r"[\w@+=:,./-]+", re.ASCII)
"""What a remote shell, and pdsh, leave as it is."""


def write_recipe(config: Config) -> Path:
    """The resolved recipe as RUN/launch/recipe.yaml; its path is all that a command line needs to hold of it."""
    from train.recipe.identity import to_yaml

    return write(Path(config.run.dir), "recipe.yaml", to_yaml(config))


def write(run: Path, name: str, text: str) -> Path:
    """A file in RUN/launch/, whole or not at all."""
    from train.run_folder import write_file

    folder = run / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / name, text.encode())
    return folder / name


def write_secrets(run: Path, exports: Mapping[str, str]) -> Path:
    """RUN/launch/secrets-PID.sh, for a remote shell to source; nobody else may read it."""
    folder = run / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f"secrets-{os.getpid()}.sh"
    path.unlink(missing_ok=True)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in exports.items()]
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write("".join(lines))
    return path


def require_safe(what: str, value: str, instead: str) -> None:
    """UserError if a remote shell would read `value` as something else: deepspeed does not quote it."""
    if not SAFE.fullmatch(value):
        raise UserError(
            f"{what} is {value!r}, which the shells of other hosts would not take as it stands; {instead} with "
            "letters, digits and @ + = : , . / _ - only"
        )
