"""Real parts from Debian packages: Slurm, sshd, pdsh, Prometheus, Open MPI, sclite, Chromium. `.ci/run` installs them.

Where one is missing a test is skipped with its name; SLAM_ASR_CLUSTER=1, which .ci/run sets, makes that a failure.
"""

import os
import shutil

import pytest


def require(*programs: str, root: bool = False) -> None:
    """Skips the test, or fails it under SLAM_ASR_CLUSTER=1, unless these programs (and root) are here."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if root and os.geteuid() != 0:
        missing.append("root")
    if not missing:
        return
    said = f"{', '.join(missing)} not here; .ci/run installs what is needed"
    if os.environ.get("SLAM_ASR_CLUSTER") == "1":
        pytest.fail(said)
    pytest.skip(said)
