"""`python -m launch` in which rank 1 is killed by SIGKILL while it writes its first batch; started by launchers."""

import os
import signal
import sys
from pathlib import Path

from decode import resume
from decode.dataset import DecodedBatch


def keep(folder: Path, rank: int, batch: DecodedBatch) -> None:
    if rank == 1:
        (folder / "rank-00001.jsonl").write_bytes(b'\n{"rows":[{"key":"u')
        os.kill(os.getpid(), signal.SIGKILL)
    _keep(folder, rank, batch)


_keep, resume.keep = resume.keep, keep

if __name__ == "__main__":
    from launch.command import main

    sys.exit(main([argument for argument in sys.argv[1:] if not argument.startswith("--local_rank=")]))
