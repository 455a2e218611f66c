"""The GPUs that a plan is for: how many, how much memory, how fast, and what moves data between them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from model.errors import UserError, closest, require_known

GIB = 2**30
FORM = re.compile(r"(?P<count>[0-9]{1,5})x(?P<what>[A-Za-z0-9.\-]{1,20})")
SIZE = re.compile(r"(?P<gigabytes>[0-9]{1,4}(\.[0-9]+)?)(GB|GiB|G)", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """One kind of GPU, by its maker's data sheet."""

    name: str
    gigabytes: float
    """Memory as it is sold."""
    gibibytes: float
    """What PyTorch finds of it (the "total capacity" of its out-of-memory errors), rounded down."""
    teraflops: float
    """Dense bfloat16 products, summed in float32: half of what a data sheet gives "with sparsity"."""
    peers: float
    """GB/s, one direction, between the GPUs of a node: NVLink, or PCIe where there is none."""
    host: float
    """GB/s from the host's memory: PCIe of 16 lanes, 25 of 32 (generation 4) or 50 of 64 (5) as copies reach."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("a10", 24, 22.0, 125, 25, 25),  # NVIDIA A10 data sheet, 2021
        Kind("l4", 24, 22.0, 121, 25, 25),  # L4 data sheet: 242 with sparsity
        Kind("rtx3090", 24, 23.6, 71, 25, 25),  # GA102 whitepaper, table 9
        Kind("rtx4090", 24, 23.6, 165, 25, 25),  # Ada whitepaper, appendix A
        Kind("a100-40", 40, 39.4, 312, 300, 25),  # A100 data sheet: NVLink 600 GB/s, both directions together
        Kind("a40", 48, 44.3, 150, 25, 25),  # A40 data sheet
        Kind("l40s", 48, 44.3, 362, 25, 25),  # L40S data sheet: 733 with sparsity
        Kind("a100", 80, 79.1, 312, 300, 25),  # A100 data sheet
        Kind("h100", 80, 79.1, 989, 450, 50),  # H100 SXM data sheet: 1979 with sparsity, NVLink 900 GB/s
        Kind("h200", 141, 139.7, 989, 450, 50),  # H200 data sheet
        Kind("b200", 180, 178.3, 2250, 900, 50),  # DGX B200 data sheet: 1440 GB for eight, 36 PFLOP/s with sparsity
    )
}
BY_MEMORY = {24: "a10", 40: "a100-40", 48: "l40s", 80: "a100", 141: "h200", 180: "b200"}
"""Who is meant by a memory alone: of several the slower, so that a plan does not promise too much."""
MOST_NODES, MOST_A_NODE = 10_000, 256
NETWORK = 45.0
"""GB/s a GPU between nodes: 400 Gb/s InfiniBand for each GPU, 50 in theory; the figure of our growth model."""


@dataclass(frozen=True)
class Cluster:
    """All GPUs of a run; a rank drives one."""

    per_node: int
    nodes: int
    gigabytes: float
    """Of each, as it is sold."""
    bytes_each: int
    """What of that can be had."""
    kind: Kind
    assumed: bool
    """Whether the kind was chosen by memory alone."""

    @property
    def ranks(self) -> int:
        return self.per_node * self.nodes

    @property
    def link(self) -> float:
        """Bytes a second that a rank receives in a collective over all: the slower of node and network."""
        return 1e9 * (min(NETWORK, self.kind.peers) if self.nodes > 1 else self.kind.peers)


def read_cluster(gpus: str, nodes: int, gpu_type: str | None) -> Cluster:
    """`8x80GB`, `1x24GB` or `4xh100`: GPUs of one node, by memory or by kind. UserError for another form."""
    found = FORM.fullmatch(gpus.strip())
    if found is None or int(found["count"]) == 0:
        raise UserError(f"--gpus {gpus!r} is not understood{_meant(gpus)}; write 8x80GB, 1x24GB or 4xh100")
    if not 1 <= nodes <= MOST_NODES:
        raise UserError(f"--nodes is {nodes}, it must be at least 1 and at most {MOST_NODES:,}")
    if int(found["count"]) > MOST_A_NODE:
        raise UserError(f"--gpus {gpus!r}: it counts the GPUs of one node, at most {MOST_A_NODE}; see --nodes")
    if gpu_type is not None:
        require_known("--gpu-type", gpu_type.lower(), KINDS)
    count, what, size = found["count"], found["what"].lower(), SIZE.fullmatch(found["what"])
    if size is None and what not in KINDS:
        near = f"{what}GB" if what.isdigit() else closest(what, KINDS)
        meant = f", did you mean {count}x{near}?" if near else ""
        raise UserError(
            f"--gpus {gpus!r}: {what!r} is neither a memory such as 80GB nor a known GPU{meant}; "
            f"known: {', '.join(KINDS)}"
        )
    kind = KINDS[gpu_type.lower()] if gpu_type else _nearest(float(size["gigabytes"])) if size else KINDS[what]
    gigabytes = float(size["gigabytes"]) if size else KINDS[what].gigabytes
    if gigabytes == 0:
        raise UserError(f"--gpus {gpus!r}: a GPU without memory computes nothing; write 8x80GB, 1x24GB or 4xh100")
    there = int(gigabytes * kind.gibibytes / kind.gigabytes * GIB)
    return Cluster(int(count), nodes, gigabytes, there, kind, size is not None and gpu_type is None)


def alone(name: str, bytes_each: int, gpu_type: str | None) -> Cluster:
    """One GPU that is there, `name` as its driver calls it: of the kind that this names, or of the nearest memory."""
    if gpu_type is not None:
        require_known("--gpu-type", gpu_type.lower(), KINDS)
        return Cluster(1, 1, bytes_each / GIB, bytes_each, KINDS[gpu_type.lower()], False)
    spelt = name.lower().replace(" ", "")
    named = max((kind for kind in KINDS if kind in spelt), key=len, default=None)
    kind = KINDS[named] if named else _nearest(bytes_each / GIB)
    return Cluster(1, 1, bytes_each / GIB, bytes_each, kind, named is None)


def _nearest(gigabytes: float) -> Kind:
    return KINDS[BY_MEMORY[min(BY_MEMORY, key=lambda size: abs(size - gigabytes))]]


def _meant(gpus: str) -> str:
    """For 80GBx8, 8*80GB, 8 x 80 GB, 80GB or 8x80."""
    parts = [part for part in re.split(r"[x*:,\s]+", gpus.strip()) if part]
    counts = [part for part in parts if part.isdigit()]
    names = [part for part in parts if SIZE.fullmatch(part) or closest(part.lower(), KINDS)]
    if names:
        name = names[0] if SIZE.fullmatch(names[0]) else closest(names[0].lower(), KINDS)
        return f", did you mean {next((c for c in counts if int(c)), '1')}x{name}?"
    return f", did you mean {counts[0]}x{counts[1]}GB?" if len(counts) == 2 and int(counts[0]) else ""
