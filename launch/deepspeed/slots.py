"""Hostfiles, `HOST slots=N` a line (deepspeed ignores any other line, here it is refused), and their chosen devices."""

import re
from pathlib import Path

from data_prep.durable import read_regular
from model.errors import UserError, hint

LINE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)\s+slots=([1-9][0-9]{0,3})")
Slots = dict[str, list[int]]  # the devices of each host; the order of hosts is that of ranks


def read_hostfile(path: Path) -> Slots:
    """All slots. UserError, with the line's number, for any other line."""
    try:
        lines = read_regular(path, limit=1 << 20).decode().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the hostfile {path}: {error}; a line is such as `node1 slots=8`") from None
    hosts: Slots = {}
    for number, text in enumerate(lines, 1):
        text = text.partition("#")[0].strip()
        match = LINE.fullmatch(text)
        if match and match[1] in hosts:
            raise UserError(f"{path} line {number}: {match[1]} has a line above already; join the two")
        if match:
            hosts[match[1]] = list(range(int(match[2])))
        elif text:
            todo = "every host has its own line, and its user stands in ~/.ssh/config"
            raise UserError(f"{path} line {number}: {text!r} is not HOST slots=N, such as `node1 slots=8`; {todo}")
    if not hosts:
        raise UserError(f"{path} names no host; write a line such as `node1 slots=8` for each")
    return hosts


def choose(hosts: Slots, include: str, exclude: str) -> Slots:
    """What --include or --exclude leave: HOST[:SLOT[,SLOT ...]][@HOST ...]; all if neither is given."""
    if include and exclude:
        raise UserError("--include and --exclude are both given; give one")
    option, text = ("--include", include) if include else ("--exclude", exclude)
    named: dict[str, set[int]] = {}
    for part in text.split("@") if text else ():
        host, colon, numbers = part.partition(":")
        if host not in hosts:
            raise UserError(f"{option}: {host!r} is not in the hostfile{hint(host, hosts)}")
        for slot in numbers.split(",") if colon else map(str, hosts[host]):
            if not slot.isdecimal() or int(slot) not in hosts[host]:
                raise UserError(f"{option}: {host} has no slot {slot!r}; it has 0 to {len(hosts[host]) - 1}")
            named.setdefault(host, set()).add(int(slot))
    left = {host: [n for n in slots if (n in named.get(host, ())) == bool(include)] for host, slots in hosts.items()}
    if not any(left.values()):
        raise UserError(f"--exclude {exclude!r} leaves no host; leave some")
    return {host: slots for host, slots in left.items() if slots}
