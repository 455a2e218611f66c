"""The text that sbatch gets: one template, filled in; every value checked or quoted.

A value in an #SBATCH line cannot be quoted, so only harmless characters pass there; what goes into the shell's part is
quoted by shlex.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError

HARMLESS = re.compile(r"[A-Za-z0-9_.,:;=%@+/\[\]&|()*!-]+")
"""What a value of an #SBATCH line may hold: names, times, lists, constraints such as [a100|h100]."""
SRUN = ("srun", "--export=ALL", "--kill-on-bad-exit=1")
"""The environment whatever sbatch's --export was; one rank's bad end is the end of all."""
TOGETHER, EACH_ITS_OWN = "--wait=60", "--wait=0"
"""Ranks that train end within a minute of each other; those that encode work on as long as they have something."""
PREFLIGHT = """\
"${{ranks[@]}}" {python} -u -m launch doctor "$run/slurm/recipe.yaml"{flags} &&
        [ ! -e "$run/slurm/CANCEL" ] &&
        """


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What Slurm is asked for."""

    name: str
    nodes: int = 1
    gpus_per_node: int = 0
    ranks_per_node: int = 1
    cpus_per_task: int = 4
    time: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    memory: str = ""
    more: tuple[str, ...] = ()
    """Directives of the person's own, `--reservation=night`."""

    def directives(self, output: Path, *others: str) -> str:
        """The #SBATCH lines."""
        asked = {
            "--job-name": self.name,
            "--nodes": self.nodes,
            "--ntasks-per-node": self.ranks_per_node,
            "--gpus-per-node": self.gpus_per_node or "",
            "--cpus-per-task": self.cpus_per_task,
            "--mem": self.memory,
            "--time": self.time,
            "--partition": self.partition,
            "--account": self.account,
            "--qos": self.qos,
            "--constraint": self.constraint,
            "--output": output,
        }
        lines = [f"{name}={value}" for name, value in asked.items() if value != ""]
        return "\n".join(f"#SBATCH {_harmless(line)}" for line in [*lines, *others, *self.more])


@dataclass(frozen=True, kw_only=True)
class Program:
    """How a rank is started."""

    python: str
    """The ranks' Python, inside the container if there is one."""
    here: str
    """The batch script's own."""
    folder: Path
    """Where relative paths start."""
    env_file: Path | None = None
    """A shell file that is sourced first: modules, variables."""
    container: str = ""
    """An image: of Apptainer if it ends in .sif, else of Pyxis."""
    mounts: str = ""
    """SRC:DST,... into the container, beside the folder."""

    def srun(self, *more: str) -> list[str]:
        """The command in front of the rank's own."""
        if not self.container:
            return [*SRUN, *more]
        if self.container.endswith(".sif"):
            mounts = [str(self.folder), *([self.mounts] if self.mounts else [])]
            return [*SRUN, *more, "apptainer", "exec", "--nv", "--bind", ",".join(mounts), self.container]
        mounts = [f"{self.folder}:{self.folder}", *([self.mounts] if self.mounts else [])]
        pyxis = [f"--container-image={self.container}", f"--container-mounts={','.join(mounts)}"]
        return [*SRUN, *more, *pyxis, f"--container-workdir={self.folder}"]

    def environment(self) -> str:
        """Shell lines that make the job's environment."""
        if self.env_file is None:
            return "# the environment is that of the submission"
        file = shlex.quote(str(self.env_file))
        return (
            "set +u -a  # such files touch variables that are not set\n# shellcheck source=/dev/null\n"
            f'. {file} || echo "--env-file ended with code $?" >&2\nset -u +a'
        )


def training(
    resources: Resources,
    program: Program,
    run: Path,
    *,
    signal_seconds: int,
    give_up_after: int,
    preflight: bool,
    flags: Sequence[str] = (),
) -> str:
    """The job that trains in `run`, whose slurm/ holds recipe.yaml and deepspeed.json."""
    again = f"--signal=USR1@{signal_seconds}", "--requeue", "--open-mode=append"
    options = "".join(f" {shlex.quote(flag)}" for flag in flags)
    fill = {
        "directives": resources.directives(run / "slurm" / "train-%j.out", *again),
        "run": shlex.quote(str(run)),
        "folder": shlex.quote(str(program.folder)),
        "here": shlex.quote(program.here),
        "python": shlex.quote(program.python),
        "environment": program.environment(),
        "cpus": str(resources.cpus_per_task),
        "srun": shlex.join(program.srun(TOGETHER)),
        "give_up_after": str(give_up_after),
        "preflight": PREFLIGHT.format(python=shlex.quote(program.python), flags=options) if preflight else "",
        "flags": options,
    }
    return _filled("job.sbatch", fill)


def array(
    resources: Resources, program: Program, output: Path, commands: Sequence[Sequence[str]], at_once: int = 0
) -> str:
    """The job of a pipeline's stage: one element for each of `commands`, arguments of `slam-asr`."""
    limit = f"%{at_once}" if at_once else ""
    one = f"--array=0-{len(commands) - 1}{limit}", "--requeue", "--open-mode=append"
    cases = "\n".join(f"    {number}) set -- {shlex.join(command)} ;;" for number, command in enumerate(commands))
    fill = {
        "directives": resources.directives(output, *one),
        "folder": shlex.quote(str(program.folder)),
        "environment": program.environment(),
        "cpus": str(resources.cpus_per_task),
        "srun": shlex.join(program.srun(EACH_ITS_OWN)),
        "python": shlex.quote(program.python),
        "cases": cases,
    }
    return _filled("stage.sbatch", fill)


def _filled(template: str, values: Mapping[str, str]) -> str:
    """The template of this name with its {{places}} filled."""
    text = Path(__file__).with_name(template).read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], text)


def _harmless(directive: str) -> str:
    if not directive.startswith("--") or not HARMLESS.fullmatch(directive):
        raise UserError(
            f"{directive!r} cannot stand in an #SBATCH line; give --OPTION=VALUE without spaces, quotes or $"
        )
    return directive
