"""The scripts that sbatch gets: two templates, filled in.

A value in an #SBATCH line cannot be quoted, so only harmless characters are allowed there; values in shell lines are
quoted by shlex.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from model.errors import UserError

HARMLESS = re.compile(r"--[A-Za-z0-9_.,:;=%@+/\[\]&|()*!-]+")
"""What an #SBATCH line may hold: names, times, lists, constraints such as [a100|h100]."""
TOGETHER, EACH_ITS_OWN = "--wait=60", "--wait=0"
"""Ranks that train end within a minute of each other; those that encode each end when they have nothing left to do."""
PREFLIGHT = """\
"${{ranks[@]}}" {python} -u -m launch doctor "$run/slurm/recipe.yaml"{flags} &&
        [ ! -e "$run/slurm/CANCEL" ] &&
        """

Directives = dict[str, str | int]
"""sbatch's options and their values; those that are empty or 0 are left out."""


def training(args: argparse.Namespace, asked: Directives, run: Path) -> str:
    """The job that trains in `run`, where slurm/ holds recipe.yaml and deepspeed.json."""
    again = (f"--signal=USR1@{args.signal_seconds}", "--requeue", "--open-mode=append")
    flags, python = " --allow-changes" * args.allow_changes, _python(args)
    return _filled(
        "job.sbatch",
        args,
        asked,
        (f"--output={run}/slurm/train-%j.out", *again),
        run=shlex.quote(str(run)),
        here=shlex.quote(sys.executable),
        srun=_srun(args, TOGETHER),
        give_up_after=str(args.give_up_after),
        preflight="" if args.no_preflight else PREFLIGHT.format(python=python, flags=flags),
        flags=flags,
    )


def array(args: argparse.Namespace, asked: Directives, output: Path, commands: Sequence[Sequence[str]]) -> str:
    """The job of a pipeline's stage: one element for each of `commands`, arguments of `slam-asr`."""
    limit = f"%{args.at_once}" if args.at_once else ""
    elements = (f"--output={output}", f"--array=0-{len(commands) - 1}{limit}", "--requeue", "--open-mode=append")
    cases = (f"    {number}) set -- {shlex.join(command)} ;;" for number, command in enumerate(commands))
    return _filled("stage.sbatch", args, asked, elements, srun=_srun(args, EACH_ITS_OWN), cases="\n".join(cases))


def _filled(template: str, args: argparse.Namespace, asked: Directives, others: Sequence[str], **values: str) -> str:
    """A template with its {{places}} filled: by `values`, and by those that both have."""
    lines = [*(f"--{name}={value}" for name, value in asked.items() if value not in ("", 0)), *others, *args.sbatch]
    values |= {
        "directives": "\n".join(f"#SBATCH {_harmless(line)}" for line in lines),
        "folder": shlex.quote(os.getcwd()),
        "python": _python(args),
        "environment": _environment(args.env_file),
        "cpus": str(asked["cpus-per-task"]),
    }
    text = Path(__file__).with_name(template).read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], text)


def _python(args: argparse.Namespace) -> str:
    """The ranks' own, inside the container if there is one."""
    return shlex.quote(args.python or ("python3" if args.container else sys.executable))


def _srun(args: argparse.Namespace, wait: str) -> str:
    """The command in front of a rank's own; in a container the current folder is mounted under its own name."""
    words, folder = ["srun", "--export=ALL", "--kill-on-bad-exit=1", wait], os.getcwd()
    if args.mounts and not args.container:
        raise UserError(f"--mounts {args.mounts} goes into a container, and there is no --container")
    if args.container.endswith(".sif"):
        mounts = ",".join(filter(None, [folder, args.mounts]))
        words += ["apptainer", "exec", "--nv", "--bind", mounts, args.container]
    elif args.container:
        mounts = ",".join(filter(None, [f"{folder}:{folder}", args.mounts]))
        words += [
            f"--container-image={args.container}",
            f"--container-mounts={mounts}",
            f"--container-workdir={folder}",
        ]
    return shlex.join(words)


def _environment(file: Path | None) -> str:
    """Shell lines that set the job's environment."""
    if file is None:
        return "# the environment is that of the submission"
    if not file.is_file():
        raise UserError(f"--env-file {str(file)!r} is no file; give one with shell lines, or leave it out")
    return (
        "set +u -a  # such files touch variables that are not set\n# shellcheck source=/dev/null\n"
        f'. {shlex.quote(str(file.resolve()))} || echo "--env-file ended with code $?" >&2\nset -u +a'
    )


def _harmless(directive: str) -> str:
    if not HARMLESS.fullmatch(directive):
        raise UserError(
            f"{directive!r} cannot stand in an #SBATCH line; give --OPTION=VALUE without spaces, quotes or $"
        )
    return directive
