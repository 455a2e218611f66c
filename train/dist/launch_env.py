"""Which process of how many this is: one reading of the environment, for every launcher.

    RANK, WORLD_SIZE, LOCAL_RANK ...    deepspeed, torchrun, or by hand
    OMPI_COMM_WORLD_*                   Open MPI's mpirun
    SLURM_* of a step                   srun; not of a batch script, which is no task although SLURM_PROCID is 0 there
    SKYPILOT_*                          SkyPilot, which starts one process a node
    nothing                             one process alone

The innermost launcher counts: mpirun's ranks within a Slurm job are mpirun's. What is set by hand must agree with the
launcher around it. Standard library only, as it is asked before torch is imported.
"""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from model.errors import UserError

FROM_LAUNCHER = ("CROSS_SIZE", "TORCHELASTIC_RUN_ID")
"""What deepspeed's and torch's launchers alone set, beside RANK."""
FIRST_PORT, PORTS = 20_000, 12_000
"""Of the rendezvous: below 32768, where the system's own short-lived ports begin."""
MEND = "start with deepspeed, torchrun or srun"


@dataclass(frozen=True)
class Place:
    """This process among those that were started together; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """On this host."""
    local_size: int = 1
    launcher: str = ""
    """deepspeed, torchrun, hand, mpirun, srun, skypilot; "" where nothing launched it."""
    master_addr: str = ""
    """Where rank 0 is; "" where the environment does not say."""
    master_port: str = ""

    @property
    def first(self) -> bool:
        return self.rank == 0


def find_place(env: Mapping[str, str] = os.environ) -> Place:
    """UserError that names the variables if they are no numbers, contradict each other, or leave the rank open."""
    around = _mpirun(env) or _srun(env) or _skypilot(env)
    if "RANK" not in env:
        _refuse_stray(env, around)
        return _with_master(around or Place(), env)
    given = _given(env, around)
    if around and given.launcher == "hand" and (given.rank, given.size) != (around.rank, around.size):
        raise UserError(
            f"RANK={given.rank} of WORLD_SIZE={given.size} contradicts {around.launcher}, by which this is rank "
            f"{around.rank} of {around.size}; unset RANK, WORLD_SIZE and LOCAL_RANK"
        )
    return _with_master(given, env)


def _given(env: Mapping[str, str], around: Place | None) -> Place:
    launcher = "deepspeed" if "CROSS_SIZE" in env else "torchrun" if "TORCHELASTIC_RUN_ID" in env else "hand"
    around = around if launcher == "hand" else None
    needed = ["WORLD_SIZE"] if around else ["WORLD_SIZE", "LOCAL_RANK"]
    if missing := [name for name in needed if name not in env]:
        raise UserError(f"RANK is set but {', '.join(missing)} is not; {MEND}, or unset RANK")
    size = _number(env, "WORLD_SIZE")
    local_rank = _number(env, "LOCAL_RANK", around.local_rank if around else 0)
    named = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in env), "")
    local_size = _number(env, named) if named else around.local_size if around else max(local_rank + 1, size)
    place = _checked(Place(_number(env, "RANK"), size, local_rank, local_size, launcher), "RANK", "LOCAL_RANK")
    return place if not around else replace(place, master_addr=around.master_addr, master_port=around.master_port)


def _mpirun(env: Mapping[str, str]) -> Place | None:
    """Open MPI tells no address of rank 0; where all ranks are on one host there is no need to."""
    if "OMPI_COMM_WORLD_RANK" not in env:
        return None
    rank, size, local_rank, local_size = (
        _number(env, f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    )
    place = _checked(
        Place(rank, size, local_rank, local_size, "mpirun"), "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"
    )
    addr = "127.0.0.1" if place.local_size == place.size else ""
    return replace(place, master_addr=addr, master_port=_port(env.get("PMIX_NAMESPACE", "")))


def _srun(env: Mapping[str, str]) -> Place | None:
    """A task of a step: SLURM_STEP_ID is set by srun alone. The step's own numbers count, not the job's."""
    if "SLURM_STEP_ID" not in env or "SLURM_PROCID" not in env:
        return None
    size = _number(env, "SLURM_STEP_NUM_TASKS")
    node = _number(env, "SLURM_NODEID")
    a_node = expand_counts(env.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    if node >= len(a_node):
        raise UserError(
            f"SLURM_NODEID={node} is not among the {len(a_node)} nodes of SLURM_STEP_TASKS_PER_NODE="
            f"{env['SLURM_STEP_TASKS_PER_NODE']}; {MEND}"
        )
    ranks = _number(env, "SLURM_PROCID"), size, _number(env, "SLURM_LOCALID"), a_node[node]
    place = _checked(Place(*ranks, "srun"), "SLURM_PROCID", "SLURM_LOCALID")
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    lives = [env.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    return replace(place, master_addr=first_host(nodes), master_port=_port(".".join(lives)))


def _skypilot(env: Mapping[str, str]) -> Place | None:
    """One process a node, so more than one GPU a node needs a launcher there."""
    if "SKYPILOT_NODE_RANK" not in env or env.get("SKYPILOT_NUM_NODES", "1") == "1":
        return None
    rank, nodes = _number(env, "SKYPILOT_NODE_RANK"), _number(env, "SKYPILOT_NUM_NODES")
    first = (env.get("SKYPILOT_NODE_IPS", "").split() or [""])[0]
    gpus = _number(env, "SKYPILOT_NUM_GPUS_PER_NODE", 1)
    if gpus > 1 and "RANK" not in env:
        raise UserError(
            f"SKYPILOT_NUM_GPUS_PER_NODE={gpus}, and this is one process a node; start with torchrun --nnodes {nodes} "
            f"--node_rank {rank} --nproc_per_node {gpus} --master_addr {first} -m train ..."
        )
    place = _checked(Place(rank, nodes, 0, 1, "skypilot"), "SKYPILOT_NODE_RANK", "LOCAL_RANK")
    return replace(place, master_addr=first, master_port=_port(env.get("SKYPILOT_TASK_ID", "")))


def _refuse_stray(env: Mapping[str, str], around: Place | None) -> None:
    """What tells of several processes, but not which of them this is."""
    if around:
        return
    if env.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"WORLD_SIZE={env['WORLD_SIZE']}, but RANK is not set; {MEND}, or unset WORLD_SIZE")
    if "SLURM_PROCID" in env and env.get("SLURM_NTASKS", "1") != "1":
        raise UserError(
            f"this is the batch script of a Slurm job of SLURM_NTASKS={env['SLURM_NTASKS']} tasks, not one of them; "
            "put srun in front, or submit with `slam-asr submit`"
        )


def _with_master(place: Place, env: Mapping[str, str]) -> Place:
    """MASTER_ADDR and MASTER_PORT count where they are given."""
    place = replace(
        place,
        master_addr=env.get("MASTER_ADDR") or place.master_addr,
        master_port=env.get("MASTER_PORT") or place.master_port,
    )
    if place.master_port and not (place.master_port.isdecimal() and 0 < int(place.master_port) < 65536):
        raise UserError(f"MASTER_PORT={place.master_port} is no port; give one from 1024 to 65535")
    return place


def require_master(place: Place) -> None:
    """UserError if several ranks are to meet, and nothing says where."""
    if place.size == 1:
        return
    for name, value in (("MASTER_ADDR", place.master_addr), ("MASTER_PORT", place.master_port)):
        if not value:
            how = f", as mpirun -x {name}=..." if place.launcher == "mpirun" else f"; {MEND}"
            raise UserError(
                f"rank {place.rank} of {place.size} is not told {name}, where rank 0 is to be met; give every rank "
                f"the same{how}"
            )


def _number(env: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    value = env.get(name, "" if otherwise is None else str(otherwise))
    if not re.fullmatch(r"[0-9]{1,9}", value):
        said = f"{name}={value} is no number" if name in env else f"{name} is not set"
        raise UserError(f"{said}, so which rank this is stays open; {MEND}")
    return int(value)


def _checked(place: Place, rank: str, local_rank: str) -> Place:
    if place.rank >= place.size:
        raise UserError(f"{rank}={place.rank}, of {place.size} ranks, counted from 0; {MEND}")
    if place.local_rank >= place.local_size:
        raise UserError(
            f"{local_rank}={place.local_rank}, of {place.local_size} ranks on this host, counted from 0; {MEND}"
        )
    return place


def expand_counts(said: str) -> list[int]:
    """Slurm's tasks a node, `2(x3),1`, one number a node."""
    counts: list[int] = []
    for part in said.split(","):
        match = re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", part)
        if not match:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE={said} is not of the form 2(x3),1; {MEND}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def first_host(nodes: str) -> str:
    """The first host of Slurm's `gpu[003-007,012],cpu1`: gpu003."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""


def _port(what: str) -> str:
    """The same on all ranks, probably another in another job or life; "" where nothing tells them apart."""
    return str(FIRST_PORT + zlib.crc32(what.encode()) % PORTS) if what else ""
