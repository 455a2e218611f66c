"""A hostfile, `HOST slots=N` a line, and the choice of hosts and devices from it, both as deepspeed reads them.

deepspeed takes what matches and drops the rest of a line unseen; here each line is that, or refused by its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from data_prep.durable import read_regular
from model.errors import UserError, hint

MAX_BYTES = 1 << 20
LINE = re.compile(r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*)\s+slots=(?P<slots>[0-9]{1,4})")
MPI = re.compile(r"(?P<host>\S+)(:|\s+slots\s+=?\s*|\s+)(?P<slots>[0-9]+)")

Slots = dict[str, list[int]]
"""Devices of each host, in the hostfile's order, which is the order of ranks."""


def read_hostfile(path: Path, known: Callable[[str], bool]) -> Slots:
    """All slots. UserError, with the line's number, for what is no such line, and for hosts that are not `known`."""
    try:
        lines = read_regular(path, MAX_BYTES).decode().splitlines()
    except FileNotFoundError:
        raise UserError(
            f"there is no hostfile {path}; write one, a line such as `node1 slots=8` for each host"
        ) from None
    except (ValueError, IsADirectoryError) as error:
        raise UserError(f"{path} is no hostfile: {error}; a line is such as `node1 slots=8`") from None
    hosts: Slots = {}
    where: dict[str, int] = {}
    for number, text in enumerate(lines, 1):
        text = text.partition("#")[0].strip()
        if text:
            host, slots = _entry(text, f"{path} line {number}")
            if host in hosts:
                raise UserError(f"{path} line {number}: {host} was in line {where[host]} already; join the two")
            hosts[host], where[host] = list(range(slots)), number
    if not hosts:
        raise UserError(f"{path} names no host; write a line such as `node1 slots=8` for each")
    unknown = [host for host in hosts if not known(host)]
    if unknown:
        more = "" if len(unknown) == 1 else f" ({len(unknown)} hosts in all)"
        raise UserError(
            f"{path} line {where[unknown[0]]}: {unknown[0]} is not known here{more}; correct the name, or add it to "
            "/etc/hosts or ~/.ssh/config"
        )
    return hosts


def _entry(text: str, where: str) -> tuple[str, int]:
    found = LINE.fullmatch(text)
    if found and int(found["slots"]):
        return found["host"], int(found["slots"])
    if found:
        raise UserError(f"{where}: {text!r} has no slots; give at least one, or leave the host out")
    if "@" in text:
        raise UserError(f"{where}: {text!r} names a user; write the host alone, and its User into ~/.ssh/config")
    if "[" in text:
        raise UserError(f"{where}: {text!r} names several hosts; write a line for each")
    meant = MPI.fullmatch(text)
    instead = f"{meant['host']} slots={meant['slots']}" if meant else "HOST slots=NUMBER, such as node1 slots=8"
    raise UserError(f"{where}: {text!r} is no line of a hostfile; write {instead}")


def choose(hosts: Slots, include: str, exclude: str) -> Slots:
    """What --include or --exclude leave: HOST[:SLOT[,SLOT ...]][@HOST ...]; all if neither is given."""
    if include and exclude:
        raise UserError("--include and --exclude are both given; give one")
    named = _named(hosts, "--include" if include else "--exclude", include or exclude)
    if include:
        left = {host: named[host] for host in hosts if host in named}
    else:
        left = {host: [slot for slot in slots if slot not in named.get(host, [])] for host, slots in hosts.items()}
    left = {host: slots for host, slots in left.items() if slots}
    if not left:
        raise UserError(f"--exclude {exclude!r} leaves no host; leave some")
    return left


def _named(hosts: Slots, option: str, text: str) -> Slots:
    named: Slots = {}
    for part in text.split("@") if text else ():
        host, colon, numbers = part.partition(":")
        if host not in hosts:
            raise UserError(f"{option}: {host!r} is not in the hostfile{hint(host, hosts)}")
        slots = numbers.split(",") if colon else [str(slot) for slot in hosts[host]]
        wrong = [slot for slot in slots if not slot.isdecimal() or int(slot) not in hosts[host]]
        if wrong:
            raise UserError(f"{option}: {host} has no slot {wrong[0]!r}; it has 0 to {len(hosts[host]) - 1}")
        named[host] = sorted({*named.get(host, []), *map(int, slots)})
    return named


def to_hostfile(hosts: Slots) -> str:
    """The same as text, a line a host."""
    return "".join(f"{host} slots={len(slots)}\n" for host, slots in hosts.items())
