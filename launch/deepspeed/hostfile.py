"""`slam-asr launch hostfile`: training on several hosts, by `deepspeed`: over ssh (pdsh), or started on each."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch.deepspeed import environment, recipe, slots, ssh
from launch.deepspeed.marked import VARIABLE
from launch.deepspeed.running import Launch, carry_out, new_mark, show
from launch.deepspeed.written import require_safe, write, write_recipe, write_secrets
from launch.recipe import configure as configure_recipe
from model.errors import UserError

if TYPE_CHECKING:
    from train.recipe.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hostfile", type=Path, help="a line `HOST slots=N` for each host, in the order of ranks")
    configure_recipe(parser)
    parser.add_argument("--include", default="", help="only these: HOST[:SLOT[,SLOT ...]][@HOST ...]")
    parser.add_argument("--exclude", default="", help="all but these")
    parser.add_argument("--master-addr", default="", help="of the first host, for the others (default: its name)")
    parser.add_argument("--master-port", type=recipe.port, help="where the ranks meet (default: a free one)")
    parser.add_argument("--no-ssh", action="store_true", help="this command is given on every host, by you")
    parser.add_argument("--node-rank", type=int, metavar="R", help="with --no-ssh: which of the hosts this is, from 0")
    parser.add_argument(
        *("--env", "-e"),
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="carry this variable too; a secret needs bash or zsh there, and stays off command lines and logs",
    )


def run(args: argparse.Namespace) -> int:
    known = ssh.resolves if args.no_ssh else ssh.known
    hosts = slots.read_hostfile(args.hostfile, known)
    chosen = slots.choose(hosts, args.include, args.exclude)
    _check_hosts(args, chosen)
    given = environment.named(args.env, os.environ)
    recipe.deepspeed()
    config = recipe.checked(args)
    folder = _folder(config, safe=not args.no_ssh)
    listed = write(folder, "hostfile", slots.to_hostfile(hosts))
    call = _Call(args, config, folder, listed, chosen, write_recipe(config))
    launch = call.on_each(given) if args.no_ssh else call.by_ssh(given)
    show(launch)
    if args.dry_run:
        if launch.secrets:
            launch.secrets.unlink()
        return 0
    return carry_out(launch)


def _check_hosts(args: argparse.Namespace, chosen: slots.Slots) -> None:
    """UserError for hosts, or options, that deepspeed would start otherwise than is meant."""
    first = next(iter(chosen))
    if args.no_ssh:
        if args.node_rank is None or not 0 <= args.node_rank < len(chosen):
            last = len(chosen) - 1
            raise UserError(f"--node-rank is {args.node_rank}; with --no-ssh each host has its own, from 0 to {last}")
        if args.master_port is None:
            raise UserError("--no-ssh needs --master-port, the same on every host; 20000 to 32767 are seldom in use")
        return
    if args.node_rank is not None:
        raise UserError("--node-rank goes with --no-ssh; leave it out, or give --no-ssh and the command on every host")
    if len(chosen) == 1 and ssh.is_here(first):
        raise UserError(
            f"the hostfile leaves this host alone, for which deepspeed would want ssh all the same; give `slam-asr "
            f"launch local {args.recipe} --ranks {len(chosen[first])}`"
        )
    if len(chosen) > 1 and not args.master_addr and first in ("localhost", "127.0.0.1"):
        raise UserError(
            f"the first host is {first}, where others cannot meet it; write its name, or give --master-addr"
        )
    for program, package in (("ssh", "openssh-client"), ("pdsh", "pdsh")):
        if shutil.which(program) is None and not args.dry_run:
            raise UserError(f"there is no {program} here; install {package}, or give --no-ssh on every host")


def _folder(config: Config, safe: bool) -> Path:
    """The run's folder; over ssh nothing on the command line may need quotes."""
    folder = Path(config.run.dir)
    if safe:
        require_safe("run.dir", str(folder), "give one")
        require_safe("the current folder", os.getcwd(), "go to one")
        require_safe("this Python", sys.executable, "install into one")
    return folder


@dataclass(frozen=True)
class _Call:
    """One command line, and what was found out for it."""

    args: argparse.Namespace
    config: Config
    folder: Path
    hostfile: Path
    chosen: slots.Slots
    recipe: Path

    def on_each(self, given: dict[str, str]) -> Launch:
        """deepspeed without ssh: it starts the ranks of this host only."""
        address = self.args.master_addr or next(iter(self.chosen))
        where = ["--no_ssh", "--node_rank", str(self.args.node_rank), "--master_addr", address]
        mark = new_mark()
        return Launch(
            self._command([*where, "--master_port", str(self.args.master_port)]),
            mark,
            self.folder,
            sets={VARIABLE: mark, **given},
            hidden=tuple(filter(environment.looks_secret, given)),
            node_rank=self.args.node_rank,
        )

    def by_ssh(self, given: dict[str, str]) -> Launch:
        """deepspeed over pdsh, which starts a launch.py on every host."""
        require_safe("--deepspeed", self.args.deepspeed, "give a file")
        require_safe("--master-addr", self.args.master_addr or "-", "give one")
        carried, mark = environment.carried(os.environ, given), new_mark()
        if carried.left:
            names = ", ".join(carried.left)
            print(f"launch: not carried, as it looks secret (--env NAME carries it): {names}", file=sys.stderr)
        text = environment.to_file({**carried.plain, VARIABLE: mark}, environment.own_lines(os.environ))
        listed = write(self.folder, "environment", text).resolve()
        secrets = write_secrets(self.folder, carried.secret) if carried.secret else None
        return Launch(
            self._command([*self._meeting(), *(["--venv_script", str(secrets)] if secrets else [])]),
            mark,
            self.folder,
            sets={VARIABLE: mark, "DS_ENV_FILE": str(listed), ssh.APPEND: ssh.for_pdsh(self._patience())},
            unsets=environment.withheld(os.environ),
            hosts=tuple(self.chosen),
            secrets=secrets,
        )

    def _meeting(self) -> list[str]:
        """Where the ranks meet. A name that only ~/.ssh/config knows is left to deepspeed: it asks that host."""
        first = next(iter(self.chosen))
        address = self.args.master_addr or (first if ssh.resolves(first) else "")
        alone = ["--force_multi"] if len(self.chosen) == 1 else []  # it would start there what is meant for that host
        port = ["--master_port", str(self.args.master_port or recipe.free_port())]
        return [*alone, *(["--master_addr", address] if address else []), *port]

    def _command(self, where: list[str]) -> list[str]:
        chosen = [f"--{name}={value}" for name in ("include", "exclude") if (value := getattr(self.args, name))]
        command = [recipe.deepspeed(), "--hostfile", str(self.hostfile), *chosen, *where]
        return command + recipe.training(self.recipe, self.args)

    def _patience(self) -> int:
        """Seconds after which a connection without an answer is dead: as soon as the ranks themselves give up."""
        return self.config.run.stall_seconds or self.config.run.collective_timeout_seconds
