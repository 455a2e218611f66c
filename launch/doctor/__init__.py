"""`slam-asr doctor`: checks, on every rank, for what would stop a training or make it wrong or slow."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.figures import counted

if TYPE_CHECKING:
    from launch.doctor.result import CheckResult
    from train.dist.launch_env import RankEnv
    from train.recipe.config import Config

RANKS = """\
on all ranks of a job, by the launcher that will start the training:
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
    from launch.doctor.result import failures, lines_of
    from model.errors import UserError
    from train.dist.launch_env import read_rank_env, require_master
    from train.liveness.exit_status import mark_permanent
    from train.recipe.config import load_config

    try:
        config, place = load_config(args.recipe, args.overrides), read_rank_env()
        require_master(place)
    except UserError as error:
        mark_permanent(error)
        raise
    results = _check(config, place, args.allow_changes)
    if args.hostfile is not None and place.first:
        results += _hosts(args.hostfile, config)
    if not results:  # rank 0 reports
        return 0
    for line in lines_of(results):
        print(printable(line))
    for result in results:
        if result.permanent:
            mark_permanent(result.what)
    wrong = failures(results)
    print(f"{counted(wrong, 'thing')} would stop this training" if wrong else "nothing would stop this training")
    return 1 if wrong else 0


def _check(config: Config, place: RankEnv, allow_changes: bool) -> list[CheckResult]:
    """This rank's results; of several ranks all results, on rank 0."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # what is not on this host is reported, not fetched
    import torch

    from launch.doctor import data, gpus, host
    from launch.doctor.rendezvous import agent_has_the_port, check_ranks
    from launch.doctor.result import FAIL, CheckResult, failures
    from model.errors import UserError
    from train.dist.collectives import versions
    from train.dist.device import rank_device
    from train.recipe.identity import config_digest

    once_a_host, device = place.local_rank == 0, torch.device("cpu")
    results, identities = data.models(config) if once_a_host else ([], {})
    read, digests = data.shards(config, place.rank, reads=once_a_host)
    results += read
    if once_a_host:
        results += [*host.disk(config), *host.locks(), *gpus.gpus(place.local_size)]
    if place.first and place.size > 1 and not agent_has_the_port():
        results.append(host.port(place.master_port))
    try:
        device = rank_device(place)
    except UserError as error:
        results.append(CheckResult("GPUs", FAIL, str(error)))
    if place.first and not failures(results):
        results += data.training(config, device, place.size, allow_changes)
    if device.type == "cuda":
        results.append(gpus.gpu_speed(device))
    results = [replace(result, where=socket.gethostname()) for result in results]
    if place.size == 1:
        return results
    facts = {**versions(), "recipe": config_digest(config), **digests, "device": device.type, **identities}
    return check_ranks(place, device, results, facts, config.run.collective_timeout_seconds)


def _hosts(hostfile: Path, config: Config) -> Iterator[CheckResult]:
    """Each host of a hostfile: by ssh without a password, and how soon a dead connection to it ends."""
    from launch.deepspeed.slots import read_hostfile
    from launch.deepspeed.ssh import keepalive_seconds, reach
    from launch.doctor.result import FAIL, OK, WARN, CheckResult

    for name in read_hostfile(hostfile):
        if wrong := reach(name):
            yield CheckResult("ssh", FAIL, wrong, where=name)
            continue
        seconds = keepalive_seconds(name)
        if seconds is None or seconds > config.run.collective_timeout_seconds:
            what = "a dead connection never ends" if seconds is None else f"a dead connection ends after {seconds} s"
            todo = "`launch hostfile` sets ServerAliveInterval by itself; for plain deepspeed see ssh_config.example"
            yield CheckResult("ssh", WARN, what, todo, name)
        else:
            yield CheckResult("ssh", OK, f"reached; a dead connection ends after {seconds} s", where=name)
