"""The scripts that sbatch gets, two templates filled in: of a training, and of the other stages of a pipeline.

A value in an #SBATCH line cannot be quoted, so only harmless characters are allowed there; values in shell lines are
quoted by shlex. A pipeline is shards -> features -> train -> score, where all but train are arrays of jobs; each waits
for the one before it, and is cancelled if that fails (--kill-on-invalid-dep)."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launch import stages as commands
from model.errors import UserError

if TYPE_CHECKING:
    from train.recipe.config import Config

HARMLESS = re.compile(r"--[A-Za-z0-9_.,:;=%@+/\[\]&|()*!-]+")  # names, times, lists, constraints as [a100|h100]
PREFLIGHT = """\
"${ranks[@]}" {{python}} -u -m launch doctor "$run/slurm/recipe.yaml"{{flags}} &&
        [ ! -e "$run/slurm/CANCEL" ] &&
        """

Directives = dict[str, str | int]  # sbatch's options and their values; those that are empty or 0 are left out


@dataclass(frozen=True)
class Stage:
    """A job, or an array of them."""

    name: str
    text: str  # its script for sbatch
    after: str = ""  # the stage that it waits for
    how: str = "afterok"  # or aftercorr: each element waits for the same element of that stage alone


def training(args: argparse.Namespace, asked: Directives, run: Path) -> Stage:
    """The job that trains in `run`, where slurm/ holds recipe.yaml and deepspeed.json."""
    own = [f"--output={run}/slurm/train-%j.out", f"--signal=USR1@{args.signal_seconds}"]
    values = {"run": shlex.quote(str(run)), "here": shlex.quote(sys.executable)}
    values |= {"give_up_after": str(args.give_up_after), "flags": " --allow-changes" * args.allow_changes}
    # Ranks that train end within a minute of each other.
    return Stage("train", _filled("job.sbatch", args, asked, own, "--wait=60", values))


def pipeline(args: argparse.Namespace, config: "Config", train: Stage, asked: Directives) -> list[Stage]:
    """All stages, in order; `asked` are the directives of `train`."""
    if not (args.build or args.features or args.score):
        raise UserError("a pipeline has stages beside the training; give --build, --features or --score")
    folder, chain = Path(config.run.dir).absolute(), []
    builds, encodings = _pairs(args.build, "--build"), _pairs(args.features, "--features")

    def array(name: str, after: str, lines: list[list[str]], changes: Directives, how: str = "afterok") -> Stage:
        """An element for each of `lines`, arguments of `slam-asr`."""
        own = {"nodes": 1, "time": args.prep_time or args.time, "job-name": f"{asked['job-name']}-{name}"}
        limit = f"%{args.at_once}" if args.at_once else ""
        elements = [f"--output={folder}/slurm/{name}-%A_%a.out", f"--array=0-{len(lines) - 1}{limit}"]
        cases = "\n".join(f"    {number}) set -- {shlex.join(line)} ;;" for number, line in enumerate(lines))
        # Ranks that encode each end when they have nothing left to do.
        text = _filled("stage.sbatch", args, asked | own | changes, elements, "--wait=0", {"cases": cases})
        return Stage(name, text, after, how)

    if builds:
        options = ["--workers", str(args.prep_cpus), *shlex.split(args.build_options)]
        lines = [commands.build(source, out, options) for out, source in builds.items()]
        cpus: Directives = {"gpus-per-node": 0, "ntasks-per-node": 1, "cpus-per-task": args.prep_cpus}
        chain.append(array("shards", "", lines, cpus | {"partition": args.prep_partition or args.partition}))
    if encodings:
        options = shlex.split(args.feature_options)
        lines = [commands.features(shards, out, config.model, options) for out, shards in encodings.items()]
        same = list(encodings.values()) == list(builds)
        chain.append(array("features", "shards" if builds else "", lines, {}, "aftercorr" if same else "afterok"))
    chain.append(replace(train, after=chain[-1].name if chain else ""))
    if args.score:
        outs = [(name, str(folder / "scores" / Path(name).name)) for name in args.score]
        lines = [commands.score(str(folder), name, out, config.model) for name, out in outs]
        one: Directives = {"gpus-per-node": min(1, args.gpus_per_node), "ntasks-per-node": 1}
        chain.append(array("score", "train", lines, one))
    return chain


def _pairs(given: list[str], flag: str) -> dict[str, str]:
    """The source of each output, of OUT=SOURCE arguments."""
    sources: dict[str, str] = {}
    for pair in given:
        out, _, source = pair.partition("=")
        if not (out and source):
            example = "data/train=LibriSpeech/train-clean-100"
            raise UserError(f"{flag} {pair!r} is not of the form OUT=SOURCE, such as {example}")
        if out in sources:
            raise UserError(f"{flag} names {out} twice; give each directory one source")
        sources[out] = source
    return sources


def _filled(
    template: str, args: argparse.Namespace, asked: Directives, own: list[str], wait: str, values: dict[str, str]
) -> str:
    """A template with its {{places}} filled: by `values`, and by those that both templates have."""
    text = Path(__file__).with_name(template).read_text()
    text = text.replace("{{preflight}}", "" if args.no_preflight else PREFLIGHT)
    lines = [*(f"--{name}={value}" for name, value in asked.items() if value not in ("", 0)), *own]
    lines += ["--requeue", "--open-mode=append", *args.sbatch]
    for line in lines:
        if not HARMLESS.fullmatch(line):
            todo = "give --OPTION=VALUE without spaces, quotes or $"
            raise UserError(f"{line!r} cannot stand in an #SBATCH line; {todo}")
    values |= {
        "directives": "\n".join(f"#SBATCH {line}" for line in lines),
        "folder": shlex.quote(os.getcwd()),
        # The ranks' own, inside the container if there is one.
        "python": shlex.quote(args.python or ("python3" if args.container else sys.executable)),
        "environment": _environment(args.env_file),
        "srun": shlex.join(["srun", "--export=ALL", "--kill-on-bad-exit=1", wait, *_container(args)]),
        "cpus": str(asked["cpus-per-task"]),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], text)


def _container(args: argparse.Namespace) -> Sequence[str]:
    """What starts a container, or srun's options for one; the current folder is mounted under its own name."""
    folder = os.getcwd()
    if args.mounts and not args.container:
        raise UserError(f"--mounts {args.mounts} goes into a container, and there is no --container")
    if not args.container:
        return ()
    if args.container.endswith(".sif"):
        mounts = ",".join(filter(None, [folder, args.mounts]))
        return "apptainer", "exec", "--nv", "--bind", mounts, args.container
    mounts = ",".join(filter(None, [f"{folder}:{folder}", args.mounts]))
    return f"--container-image={args.container}", f"--container-mounts={mounts}", f"--container-workdir={folder}"


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
