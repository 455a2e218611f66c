"""`slam-asr doctor`: what would stop a training, or make it wrong or slow, looked for on every rank before it starts.

slam-asr doctor RECIPE                                       this host
srun ... python -m launch doctor RECIPE                      all ranks of a job; likewise torchrun, deepspeed
slam-asr doctor RECIPE --hostfile HOSTS                      ssh to the hosts too, before `launch hostfile`
"""

from __future__ import annotations

import argparse
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.figures import counted

if TYPE_CHECKING:
    from launch.doctor.finding import Finding
    from train.dist.launch_env import RankEnv
    from train.recipe.config import Config

RANKS = """\
on all ranks of a job, by whatever will start the training:
  srun python -m launch doctor RECIPE
  torchrun --nproc_per_node 8 -m launch doctor RECIPE
  deepspeed --num_accelerators 8 --module launch doctor RECIPE"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = RANKS
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument("--allow-changes", action="store_true", help="as the training will be started with it")
    parser.add_argument("--hostfile", type=Path, metavar="FILE", help="reach each host of it by ssh, as pdsh will")


def run(args: argparse.Namespace) -> int:
    from data_prep.text import printable
    from launch.doctor.finding import failures, table
    from model.errors import UserError
    from train.dist.launch_env import read_rank_env, require_master
    from train.liveness import permanent_failure
    from train.recipe.config import load_config

    try:
        config, place = load_config(args.recipe, args.overrides), read_rank_env()
        require_master(place)
    except UserError as error:
        permanent_failure.mark(error)
        raise
    found = _all(config, place, args.allow_changes)
    if args.hostfile is not None and place.first:
        found += _hosts(args.hostfile, config)
    if not found:  # rank 0 tells
        return 0
    for line in table(found):
        print(printable(line))
    wrong = failures(found)
    for one in found:
        if one.mistake:
            permanent_failure.mark(one.what)
    print(f"{counted(wrong, 'thing')} would stop this training" if wrong else "nothing would stop this training")
    return 1 if wrong else 0


def _all(config: Config, place: RankEnv, allow_changes: bool) -> list[Finding]:
    os.environ["HF_HUB_OFFLINE"] = "1"  # what is not on this host is to be said, not fetched
    import torch

    from launch.doctor import data, host
    from launch.doctor.finding import FAIL, Finding, failures
    from launch.doctor.meeting import agent_has_the_port, meet
    from model.errors import UserError
    from train.dist.agreement import versions
    from train.dist.device import rank_device
    from train.recipe.identity import config_digest

    here = socket.gethostname()
    read, digests = data.shards(config, place.rank, reads=place.local_rank == 0)
    own, identities = data.models(config) if place.local_rank == 0 else ([], {})
    own += read
    if place.local_rank == 0:
        own += [*host.disk(config), *host.locks(), *host.gpus(place.local_size)]
    if place.first and place.size > 1 and not agent_has_the_port():
        own.append(host.port(place.master_port))
    facts = {**versions(), "recipe": config_digest(config), **digests}
    try:
        device = rank_device(place)
    except UserError as error:
        own.append(Finding("GPUs", FAIL, str(error)))
        device = torch.device("cpu")
    if place.first and not failures(own):
        own += data.training(config, device, place.size, allow_changes)
    if device.type == "cuda":
        own.append(host.gpu_speed(device))
    own = [replace(one, where=here) for one in own]
    if place.size == 1:
        return own
    seconds = config.run.collective_timeout_seconds
    return meet(place, device, own, facts | {"device": device.type} | identities, seconds)


def _hosts(hostfile: Path, config: Config) -> list[Finding]:
    """Each host of a hostfile: by ssh without a password, and how soon a dead connection to it ends."""
    from launch.deepspeed.slots import read_hostfile
    from launch.deepspeed.ssh import keepalive_seconds, reach
    from launch.doctor.finding import FAIL, OK, WARN, Finding

    found = []
    for name in read_hostfile(hostfile):
        if wrong := reach(name):
            found.append(Finding("ssh", FAIL, wrong, where=name))
            continue
        seconds = keepalive_seconds(name)
        if seconds is None or seconds > config.run.collective_timeout_seconds:
            said = "a dead connection never ends" if seconds is None else f"a dead connection ends after {seconds} s"
            todo = "`launch hostfile` sets ServerAliveInterval by itself; for plain deepspeed see ssh_config.example"
            found.append(Finding("ssh", WARN, said, todo, name))
        else:
            found.append(Finding("ssh", OK, f"reached; a dead connection ends after {seconds} s", where=name))
    return found
