"""Which rank of how many this process is, whichever launcher started it, and its share of the host's cores.

    RANK, WORLD_SIZE, LOCAL_RANK ...    deepspeed, torchrun, or by hand
    OMPI_COMM_WORLD_*                   Open MPI's mpirun
    SLURM_* of a step                   srun; not of a batch script, which is no task although SLURM_PROCID is 0 there
    SKYPILOT_*                          SkyPilot, which starts one process a node
    nothing                             a single process

The innermost launcher counts: mpirun's ranks within a Slurm job are mpirun's. Variables set by hand must agree with the
launcher around them. Standard library only, as it is called before torch is imported."""

import os
import re
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

from data_prep.cores import usable_cores
from model.errors import UserError

FROM_LAUNCHER = ("CROSS_SIZE", "TORCHELASTIC_RUN_ID")
"""Variables that only deepspeed's and torch's launchers set, beside RANK."""
FIRST_PORT, PORTS = 20_000, 12_000  # of the rendezvous: below 32768, where the system's ephemeral ports begin
MEND = "start with deepspeed, torchrun or srun"
READERS = 2  # cores left to the threads that read and decode (data.reader_threads), where there are more than they need


@dataclass(frozen=True)
class RankEnv:
    """This process among those that were started together; a single process by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this host
    local_size: int = 1
    launcher: str = ""  # deepspeed, torchrun, hand, mpirun, srun, skypilot; "" where there is none
    master_addr: str = ""  # host of rank 0; "" where the environment does not name it
    master_port: str = ""

    @property
    def first(self) -> bool:
        return self.rank == 0


def read_rank_env(env: Mapping[str, str] = os.environ) -> RankEnv:
    """UserError that names the variables if they are no numbers, contradict each other, or leave the rank open."""
    around = _mpirun(env) or _srun(env) or _skypilot(env)
    ranks = _torch(env, around) if "RANK" in env else around or _single(env)
    port = env.get("MASTER_PORT") or ranks.master_port
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"MASTER_PORT={port} is no port; give one from 1024 to 65535")
    return replace(ranks, master_addr=env.get("MASTER_ADDR") or ranks.master_addr, master_port=port)


def require_master(ranks: RankEnv) -> None:
    """UserError if several ranks are to meet and the environment does not say where."""
    for name, value in (("MASTER_ADDR", ranks.master_addr), ("MASTER_PORT", ranks.master_port)):
        if ranks.size > 1 and not value:
            how = f", as mpirun -x {name}=..." if ranks.launcher == "mpirun" else f"; {MEND}"
            raise UserError(
                f"{name} is not set for rank {ranks.rank} of {ranks.size}, so it cannot reach rank 0; give every rank "
                f"the same{how}"
            )


def agent_has_the_port() -> bool:
    """Whether torchrun's agent serves the store at MASTER_PORT; else rank 0 does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _torch(env: Mapping[str, str], around: RankEnv | None) -> RankEnv:
    launcher = "deepspeed" if "CROSS_SIZE" in env else "torchrun" if "TORCHELASTIC_RUN_ID" in env else "hand"
    around = around if launcher == "hand" else None
    needed = ["WORLD_SIZE"] if around else ["WORLD_SIZE", "LOCAL_RANK"]
    if missing := [name for name in needed if name not in env]:
        raise UserError(f"RANK is set but {', '.join(missing)} is not; {MEND}, or unset RANK")
    local_rank: int | str = around.local_rank if around and "LOCAL_RANK" not in env else "LOCAL_RANK"
    local_size: int | str = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in env), "")
    if not local_size:  # not known by hand: as many as there can be
        local_size = around.local_size if around else max(_number(env, local_rank) + 1, _number(env, "WORLD_SIZE"))
    ranks = _ranks(env, launcher, "RANK", "WORLD_SIZE", local_rank, local_size)
    if not around:
        return ranks
    if (ranks.rank, ranks.size) != (around.rank, around.size):
        raise UserError(
            f"RANK={ranks.rank} of WORLD_SIZE={ranks.size} contradicts {around.launcher}, by which this is rank "
            f"{around.rank} of {around.size}; unset RANK, WORLD_SIZE and LOCAL_RANK"
        )
    return replace(ranks, master_addr=around.master_addr, master_port=around.master_port)


def _mpirun(env: Mapping[str, str]) -> RankEnv | None:
    """Open MPI does not say where rank 0 is; where all ranks are on one host it need not."""
    if "OMPI_COMM_WORLD_RANK" not in env:
        return None
    names = [f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
    ranks = _ranks(env, "mpirun", *names)
    addr = "127.0.0.1" if ranks.local_size == ranks.size else ""
    return replace(ranks, master_addr=addr, master_port=_port(env.get("PMIX_NAMESPACE", "")))


def _srun(env: Mapping[str, str]) -> RankEnv | None:
    """A task of a step: only srun sets SLURM_STEP_ID. The step's own numbers count, not the job's."""
    if "SLURM_STEP_ID" not in env or "SLURM_PROCID" not in env:
        return None
    node, counts = _number(env, "SLURM_NODEID"), env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_STEP_NUM_TASKS"))
    tasks_per_node = _expand_counts(counts or "")
    if node >= len(tasks_per_node):
        raise UserError(
            f"SLURM_NODEID={node} is not among the {len(tasks_per_node)} nodes of SLURM_STEP_TASKS_PER_NODE={counts}; "
            f"{MEND}"
        )
    ranks = _ranks(env, "srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", tasks_per_node[node])
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    start = [env.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    return replace(ranks, master_addr=first_host(nodes), master_port=_port(".".join(start)))


def _skypilot(env: Mapping[str, str]) -> RankEnv | None:
    """One process a node, so more than one GPU a node needs a launcher there."""
    if "SKYPILOT_NODE_RANK" not in env or env.get("SKYPILOT_NUM_NODES", "1") == "1":
        return None
    ranks = _ranks(env, "skypilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", 0, 1)
    first, *_ = env.get("SKYPILOT_NODE_IPS", "").split() or [""]
    if "RANK" not in env and env.get("SKYPILOT_NUM_GPUS_PER_NODE", "1") not in ("0", "1"):
        gpus = _number(env, "SKYPILOT_NUM_GPUS_PER_NODE")
        raise UserError(
            f"SKYPILOT_NUM_GPUS_PER_NODE={gpus}, and this is one process a node; start with torchrun --nnodes "
            f"{ranks.size} --node_rank {ranks.rank} --nproc_per_node {gpus} --master_addr {first} -m train ..."
        )
    return replace(ranks, master_addr=first, master_port=_port(env.get("SKYPILOT_TASK_ID", "")))


def _single(env: Mapping[str, str]) -> RankEnv:
    """UserError where the environment tells of several processes, but not which of them this is."""
    if env.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"WORLD_SIZE={env['WORLD_SIZE']}, but RANK is not set; {MEND}, or unset WORLD_SIZE")
    if "SLURM_PROCID" in env and env.get("SLURM_NTASKS", "1") != "1":
        raise UserError(
            f"this is the batch script of a Slurm job of SLURM_NTASKS={env['SLURM_NTASKS']} tasks, not one of them; "
            "put srun in front, or submit with `slam-asr submit`"
        )
    return RankEnv()


def _ranks(
    env: Mapping[str, str], launcher: str, rank: str, size: str, local_rank: str | int, local_size: str | int
) -> RankEnv:
    """From the variables of these names; of what has none, the number itself."""
    numbers = [_number(env, name) for name in (rank, size, local_rank, local_size)]
    for name, number, count, where in ((rank, *numbers[:2], ""), (local_rank, *numbers[2:], " on this host")):
        if number >= count:
            raise UserError(f"{name}={number}, of {count} ranks{where}, counted from 0; {MEND}")
    return RankEnv(numbers[0], numbers[1], numbers[2], numbers[3], launcher)


def _number(env: Mapping[str, str], name: str | int) -> int:
    if isinstance(name, int):
        return name
    if not re.fullmatch(r"[0-9]{1,9}", env.get(name, "")):
        fault = f"{name}={env[name]} is no number" if name in env else f"{name} is not set"
        raise UserError(f"{fault}, so which rank this is stays open; {MEND}")
    return int(env[name])


def _expand_counts(counts: str) -> list[int]:
    """Slurm's tasks per node, `2(x3),1`, one number a node."""
    parts = [re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", part) for part in counts.split(",")]
    if not all(parts):
        raise UserError(f"SLURM_STEP_TASKS_PER_NODE={counts} is not of the form 2(x3),1; {MEND}")
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def first_host(nodes: str) -> str:
    """The first host of Slurm's `gpu[003-007,012],cpu1`: gpu003."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""


def _port(name: str) -> str:
    """A port that all ranks of a start agree on, probably another at the next start; "" without a name."""
    return str(FIRST_PORT + zlib.crc32(name.encode()) % PORTS) if name else ""


def set_threads(env: MutableMapping[str, str] = os.environ) -> None:
    """Sets OMP_NUM_THREADS unless it is set; before torch is imported.

    OpenMP by default takes all cores for every process. Two ranks on two cores, or one beside another busy process,
    then wait for each other at every barrier: many times slower than with one thread (bench/threads.py measures it)."""
    if not env.get("OMP_NUM_THREADS"):
        try:
            ranks = read_rank_env(env).local_size
        except UserError:  # reported later, when the rank is needed
            ranks = 1
        env["OMP_NUM_THREADS"] = str(threads_of(usable_cores(), ranks))


def threads_of(cores: int, ranks: int) -> int:
    """Compute threads of a rank on a host with so many cores for so many ranks."""
    return max(1, cores // ranks - READERS)
