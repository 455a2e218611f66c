"""`slam-asr launch hostfile`: training on several hosts, over ssh (pdsh) or started on each of them."""

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.durable import read_regular
from launch.deepspeed import ssh
from launch.deepspeed.running import Launch, carry_out, command
from model.errors import UserError, hint

if TYPE_CHECKING:
    from train.recipe.config import Config

LINE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)\s+slots=([1-9][0-9]{0,3})")
Slots = dict[str, list[int]]  # the devices of each host; the order of hosts is that of ranks
SAFE = re.compile(r"[\w@+=:,./-]*", re.ASCII)  # remote shells and pdsh change none of these; deepspeed quotes nothing


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("hostfile", type=Path, help="a line `HOST slots=N` for each host, in the order of ranks")
    add("--include", default="", help="only these: HOST[:SLOT[,SLOT ...]][@HOST ...]")
    add("--exclude", default="", help="all but these")
    add("--master-addr", default="", help="of the first host, for the others (default: its name)")
    add("--no-ssh", action="store_true", help="without ssh: give this command on every host")
    add("--node-rank", type=int, metavar="R", help="with --no-ssh: which of the hosts this is, from 0")
    what = "carry this variable too, which may be a secret: it stays off command lines and logs"
    add("--env", "-e", action="append", default=[], metavar="NAME[=VALUE]", help=what)


def run(args: argparse.Namespace, config: "Config") -> int:
    chosen = choose(read_hostfile(args.hostfile), args.include, args.exclude)
    variables, folder, first = ssh.named(args.env), Path(config.run.dir), next(iter(chosen))
    for host in chosen:
        if not (ssh.resolves if args.no_ssh else ssh.known)(host):
            todo = "correct it, or add it to /etc/hosts or ~/.ssh/config"
            raise UserError(f"{args.hostfile}: {host} is not known here; {todo}")
    if not args.no_ssh:
        _check_ssh(args, config, chosen)
    elif args.node_rank is None or not 0 <= args.node_rank < len(chosen):
        last = len(chosen) - 1
        raise UserError(f"--node-rank is {args.node_rank}; with --no-ssh each host has its own, from 0 to {last}")
    elif args.master_port is None:
        raise UserError("--no-ssh needs --master-port, the same on every host; 20000 to 32767 are seldom in use")
    options = ["--hostfile", str(args.hostfile)]
    options += [f"--{name}={value}" for name in ("include", "exclude") if (value := getattr(args, name))]
    if args.master_addr or args.no_ssh or ssh.resolves(first):  # otherwise deepspeed asks that host
        options += ["--master_addr", args.master_addr or first]
    if args.no_ssh:
        options += ["--no_ssh", "--node_rank", str(args.node_rank)]
        launch = Launch(command(args, config, options), folder, variables, node_rank=args.node_rank)
    else:
        exports = ssh.write_exports(folder, variables, without_secrets=args.dry_run)
        # deepspeed writes `source` in front, which dash lacks; a single host would be taken for this one.
        options += ["--venv_script", f"/dev/null; . {exports}", "--force_multi"]
        seconds = config.run.stall_seconds or config.run.collective_timeout_seconds
        append = {ssh.APPEND: ssh.for_pdsh(seconds), "DS_ENV_FILE": os.devnull}  # exports.sh holds its lines
        launch = Launch(command(args, config, options), folder, append, ssh.shown_secrets(), ssh_host=first)
    return carry_out(launch, args.dry_run)


def _check_ssh(args: argparse.Namespace, config: "Config", chosen: Slots) -> None:
    first = next(iter(chosen))
    if args.node_rank is not None:
        raise UserError("--node-rank goes with --no-ssh; leave it out, or give --no-ssh and the command on every host")
    if len(chosen) == 1 and ssh.is_this_host(first):
        instead = f"`slam-asr launch local {args.recipe} --ranks {len(chosen[first])}`"
        raise UserError(f"the hostfile leaves this host alone, which needs no ssh; give {instead}")
    if first in ("localhost", "127.0.0.1") and not args.master_addr:
        raise UserError(f"the first host is {first}, which others cannot reach; write its name, or give --master-addr")
    for program, package in (("ssh", "openssh-client"), ("pdsh", "pdsh")):
        if shutil.which(program) is None and not args.dry_run:
            raise UserError(f"there is no {program} here; install {package}, or give --no-ssh on every host")
    given = {"run.dir": config.run.dir, "--deepspeed": args.deepspeed, "--master-addr": args.master_addr}
    for what, value in (given | {"the current folder": os.getcwd(), "this Python": sys.executable}).items():
        if not SAFE.fullmatch(value):
            todo = "use letters, digits and @ + = : , . / _ - only"
            raise UserError(f"{what} is {value!r}, which the shells of other hosts would change; {todo}")


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
