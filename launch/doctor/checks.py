"""Runs the checks of this rank, and on rank 0 those of all ranks, and prints the results."""

import argparse
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from data_prep.text import printable
from launch.deepspeed.hostfile import read_hostfile
from launch.deepspeed.ssh import keepalive_seconds, reach
from launch.doctor import gpus, host
from launch.doctor.host import FAIL, OK, WARN, CheckResult, failures, lines_of
from launch.doctor.rendezvous import check_ranks
from model.errors import UserError, counted
from train.dist.collectives import rank_device, versions
from train.dist.launch_env import RankEnv, agent_has_the_port, read_rank_env, require_master
from train.liveness.exit_status import mark_permanent
from train.recipe.config import Config, load_config
from train.recipe.identity import config_digest


def run(args: argparse.Namespace) -> int:
    """Prints the results on rank 0; exit code 1 if something would stop the training."""
    try:
        config, place = load_config(args.recipe, args.overrides), read_rank_env()
        require_master(place)
    except UserError as error:
        mark_permanent(error)
        raise
    results = _check(config, place, args.allow_changes)
    if args.hostfile is not None and place.first:
        results += _hosts(args.hostfile, config.run.collective_timeout_seconds)
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
    once_a_host, device = place.local_rank == 0, torch.device("cpu")
    results, identities = host.models(config) if once_a_host else ([], {})
    read, digests = host.shards(config, place.rank, reads=once_a_host)
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
        results += host.training(config, device, place.size, allow_changes)
    if device.type == "cuda":
        results.append(gpus.gpu_speed(device))
    results = [replace(result, where=socket.gethostname()) for result in results]
    if place.size == 1:
        return results
    facts = {**versions(), "recipe": config_digest(config), **digests, "device": device.type, **identities}
    return check_ranks(place, device, results, facts, config.run.collective_timeout_seconds)


def _hosts(hostfile: Path, most_seconds: float) -> Iterator[CheckResult]:
    """Whether each host of a hostfile is reached by ssh, and whether a dead connection ends in `most_seconds`."""
    for name in read_hostfile(hostfile):
        if wrong := reach(name):
            yield CheckResult("ssh", FAIL, wrong, where=name)
            continue
        seconds = keepalive_seconds(name)
        what = "a dead connection never ends" if seconds is None else f"a dead connection ends after {seconds} s"
        level, todo = OK, ""
        if seconds is None or seconds > most_seconds:
            level = WARN
            todo = "`launch hostfile` sets ServerAliveInterval by itself; for plain deepspeed see ssh_config.example"
        yield CheckResult("ssh", level, f"reached; {what}", todo, name)
