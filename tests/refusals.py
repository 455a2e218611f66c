"""`python -m tests.refusals [pytest arguments]`: how many refusals of the product the tests cause, in all processes.

Counted are functions that raise a UserError (`train/data/corpus.py:make_corpus`), their messages without numbers, keys,
quoted values and paths, and all raises. A sitecustomize on PYTHONPATH notes them, also in processes that tests start.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("model", "data_prep", "decode", "train", "launch")
NOTING = """
import os, sys
sys.path.append({root!r})
try:
    from model import errors
    log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    def noted(self, *args):
        ValueError.__init__(self, *args)
        code = sys._getframe(1).f_code
        where = os.path.relpath(code.co_filename, {root!r}) + ":" + code.co_qualname
        os.write(log, (where + "\\t" + " ".join(str(args[0] if args else "").split())[:300] + "\\n").encode())
    errors.UserError.__init__ = noted
except ImportError:
    pass"""
VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|[^\s,;:()]*/[^\s,;:()]*|\b\w+(\.\w+)+|\b[0-9a-f]{8,}\b|[-+]?\d[\d,.e+-]*")


def shape(message: str) -> str:
    """A message without its values, so that two of the same kind are equal."""
    return VALUES.sub("#", message)


def main(arguments: list[str]) -> int:
    """Runs pytest, prints the counts and, below, each function with its raises; pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        (Path(folder) / "sitecustomize.py").write_text(NOTING.format(root=str(ROOT), log=str(log)))
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        code = subprocess.call(
            [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": path}
        )
        raises = [line.split("\t", 1) for line in log.read_text(errors="replace").splitlines() if "\t" in line]
    ours = [(where, shape(message)) for where, message in raises if where.split("/")[0] in ROOMS]
    places = {where: sum(other == where for other, _ in ours) for where, _ in sorted(ours)}
    for where, count in places.items():
        print(f"{count:6}  {where}")
    print(f"{len(places)} places, {len(set(ours))} messages, {len(ours)} raises")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
