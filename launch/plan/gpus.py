"""The GPUs that a plan is for: how many, how much memory, how fast, and what moves data between them."""

import re
from dataclasses import dataclass

from model.errors import UserError, closest, require_known

GIB = 2**30
FORM = re.compile(r"(?P<count>[1-9][0-9]{0,4})x(?P<what>[A-Za-z0-9.\-]{1,20})")
SIZE = re.compile(r"(?P<gigabytes>[0-9]{1,4}(\.[0-9]+)?)(GB|GiB|G)", re.IGNORECASE)
MOST_NODES, MOST_A_NODE = 10_000, 256
NETWORK = 45.0
"""GB/s a GPU between nodes: 400 Gb/s InfiniBand for each GPU, 50 in theory; the figure of our growth model."""


@dataclass(frozen=True)
class Kind:
    """A GPU model, by its maker's data sheet."""

    name: str
    gigabytes: float  # as it is sold
    gibibytes: float  # as PyTorch finds it
    teraflops: float  # dense bfloat16, half of what a data sheet gives "with sparsity"
    peers: float  # GB/s between the GPUs of a node, by NVLink, else PCIe
    host: float  # GB/s from the host's memory


KINDS = {
    name: Kind(name, *figures)
    for name, *figures in (
        ("a10", 24, 22.0, 125, 25, 25),
        ("l4", 24, 22.0, 121, 25, 25),
        ("rtx3090", 24, 23.6, 71, 25, 25),  # GA102 whitepaper, table 9
        ("rtx4090", 24, 23.6, 165, 25, 25),  # Ada whitepaper, appendix A
        ("a100-40", 40, 39.4, 312, 300, 25),
        ("a40", 48, 44.3, 150, 25, 25),
        ("l40s", 48, 44.3, 362, 25, 25),
        ("a100", 80, 79.1, 312, 300, 25),
        ("h100", 80, 79.1, 989, 450, 50),
        ("h200", 141, 139.7, 989, 450, 50),
        ("b200", 180, 178.3, 2250, 900, 50),
    )
}
BY_MEMORY = {24: "a10", 40: "a100-40", 48: "l40s", 80: "a100", 141: "h200", 180: "b200"}
"""GB: the kind that a memory alone stands for. Of several the slower, so that a plan does not promise too much."""


@dataclass(frozen=True)
class Cluster:
    """All GPUs of a run, each driven by one rank."""

    per_node: int
    nodes: int
    gigabytes: float
    bytes_each: int  # that can be used
    kind: Kind
    assumed: bool  # the kind, where it was chosen by memory alone

    @property
    def ranks(self) -> int:
        return self.per_node * self.nodes

    @property
    def link(self) -> float:
        """Bytes a second that a rank receives in a collective over all: the slower of node and network."""
        return 1e9 * (min(NETWORK, self.kind.peers) if self.nodes > 1 else self.kind.peers)


def read_cluster(gpus: str, nodes: int, gpu_type: str | None) -> Cluster:
    """`8x80GB`, `1x24GB` or `4xh100`: GPUs of one node, by memory or by kind. UserError for another form."""
    parts = FORM.fullmatch(gpus.strip())
    what = parts["what"].lower() if parts else ""
    size = SIZE.fullmatch(what)
    if parts is None or (size is None and what not in KINDS):
        raise UserError(
            f"--gpus {gpus!r} is not understood{_meant(gpus)}; write 8x80GB, 1x24GB or 4xh100 (known: "
            f"{', '.join(KINDS)})"
        )
    if not 1 <= nodes <= MOST_NODES:
        raise UserError(f"--nodes is {nodes}, it must be at least 1 and at most {MOST_NODES:,}")
    if int(parts["count"]) > MOST_A_NODE:
        raise UserError(f"--gpus {gpus!r}: it counts the GPUs of one node, at most {MOST_A_NODE}; see --nodes")
    gigabytes = float(size["gigabytes"]) if size else KINDS[what].gigabytes
    if gigabytes == 0:
        raise UserError(f"--gpus {gpus!r}: a GPU without memory computes nothing; write 8x80GB, 1x24GB or 4xh100")
    kind = _kind(gpu_type, gigabytes) if size or gpu_type else KINDS[what]
    usable = int(gigabytes * kind.gibibytes / kind.gigabytes * GIB)
    return Cluster(int(parts["count"]), nodes, gigabytes, usable, kind, size is not None and gpu_type is None)


def this_gpu(name: str, memory: int, gpu_type: str | None) -> Cluster:
    """One GPU of `memory` bytes whose driver calls it `name`: of the kind in that name, or of the nearest memory."""
    named = max((kind for kind in KINDS if kind in name.lower().replace(" ", "")), key=len, default=None)
    return Cluster(1, 1, memory / GIB, memory, _kind(gpu_type or named, memory / GIB), not (gpu_type or named))


def _kind(name: str | None, gigabytes: float) -> Kind:
    """The kind of this name, else the one that GPUs of about this memory are taken for."""
    if name is None:
        return KINDS[BY_MEMORY[min(BY_MEMORY, key=lambda size: abs(size - gigabytes))]]
    require_known("--gpu-type", name.lower(), KINDS)
    return KINDS[name.lower()]


def _meant(gpus: str) -> str:
    """', did you mean 8x80GB?' for 80GBx8, 8*80GB, 80GB or 8x80; empty where nothing is alike."""
    for form in (r"(?P<count>\d+)[\s*:,x]+(?P<what>.+)", r"(?P<what>.+?)[\s*:,x]+(?P<count>\d+)", "(?P<what>.+)"):
        if parts := re.fullmatch(form, gpus.strip(), re.IGNORECASE):
            what, count = parts["what"].replace(" ", ""), parts.groupdict().get("count", "1")
            name = f"{what}GB" if what.isdigit() else what if SIZE.fullmatch(what) else closest(what.lower(), KINDS)
            if name and int(count):
                return f", did you mean {count}x{name}?"
    return ""
