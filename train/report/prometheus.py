"""Serves each rank's gauges (gauges.py) to Prometheus, if the recipe has log.prometheus.

RUN/prometheus/targets.json lists the endpoints of all ranks, labelled with run, rank and host, for Prometheus's file
discovery (file_sd). A run that ends in order removes it; after a crash it stays, so that Prometheus shows the targets
as down and alerts. No failure here ends a training.
"""

import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from data_prep.durable import write_durably
from train.dist.collectives import World
from train.recipe.config import LogConfig
from train.recipe.kinds import ADDRESS_FORM
from train.report.gauges import Gauges

IDLE_SECONDS = 10.0
"""A connection that sends no request is closed after this time."""


class Exporter:
    """This rank's endpoint and, on rank 0, the run's target files."""

    def __init__(self) -> None:
        self.targets: list[Path] = []
        """Target files to remove after an orderly end."""
        self.orderly = False
        """Whether the run ended as it should, so that no alert may fire."""
        self._server: Any = None

    def serve(self, gauges: Gauges, address: str, local_rank: int) -> tuple[int, str]:
        """Starts the server; returns its port (0 if there is none) and a warning (may be empty).

        The port is that of `address` plus the local rank; if it is taken or none is given, any free one.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()  # without the client's own metrics of this process
        registry.register(gauges)
        host, port = host_and_port(address)
        fault = ""
        for number in [port + local_rank, 0] if port else [0]:
            try:
                self._server, _ = start_http_server(number, host, registry)
            except (OSError, OverflowError, ValueError) as error:  # a port beyond 65535, a name that cannot be one
                fault = f"cannot serve metrics on {host}:{number or '(any port)'}: {error}"
                continue
            self._server.RequestHandlerClass.timeout = IDLE_SECONDS
            self._server.handle_error = lambda *_: None  # a client that went away is no error of the training
            found = self._server.server_port
            return found, f"{fault}; using port {found} instead" if fault else ""
        return 0, fault

    def close(self) -> None:
        """Stops serving, and removes the target files after an orderly end."""
        if self.orderly:
            _remove(self.targets)
        if self._server:
            self._server.shutdown()
            self._server.server_close()


def open_exporter(log: LogConfig, world: World, folder: Path, gauges: Gauges, say: Callable[[str], None]) -> Exporter:
    """This rank's exporter for the run in `folder`, serving if the recipe asks for it. A collective if it does."""
    exporter, files = Exporter(), target_files(log, folder)
    if log.prometheus is None:
        if world.first:
            _remove(files)  # of an earlier start that served and crashed
        return exporter
    labels = {"run": folder.resolve().name, "rank": str(world.rank), "host": socket.gethostname()}
    port, warning = exporter.serve(gauges, log.prometheus, world.local_rank)
    target = f"{reachable_host(log.prometheus, labels['host'])}:{port}" if port else ""
    ranks = world.gather((target, labels, warning))
    if world.first:
        for rank, (_, _, warning) in enumerate(ranks):
            if warning:
                say(f"rank {rank}: {warning}; training goes on")
        exporter.targets = files
        _write_targets(files, [{"targets": [target], "labels": labels} for target, labels, _ in ranks if target], say)
    return exporter


def target_files(log: LogConfig, folder: Path) -> list[Path]:
    """The run's own file and, with log.prometheus_targets, one in that folder."""
    shared = [Path(log.prometheus_targets) / f"{folder.resolve().name}.json"] if log.prometheus_targets else []
    return [folder / "prometheus" / "targets.json", *shared]


def host_and_port(address: str) -> tuple[str, int]:
    """Splits `0.0.0.0:9400`, `[::1]:9400`, `127.0.0.1` (port 0) or `9400` (on 127.0.0.1)."""
    if address.isdecimal():
        return "127.0.0.1", int(address)
    match = ADDRESS_FORM.fullmatch(address)
    assert match  # the recipe was checked
    return match[1].strip("[]"), int(match[2] or 0)


def reachable_host(address: str, hostname: str) -> str:
    """The host under which others reach a server bound to `address`: `hostname` if it listens on all interfaces."""
    host, _ = host_and_port(address)
    with suppress(ValueError):  # a name
        if ip_address(host).is_unspecified:
            return hostname
    return f"[{host}]" if ":" in host else host


def _write_targets(files: Sequence[Path], groups: Sequence[dict[str, Any]], say: Callable[[str], None]) -> None:
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, json.dumps(groups, indent=1).encode())  # atomic: Prometheus may read at any moment
        except OSError as error:
            say(f"cannot write {file}: {error.strerror}; training goes on")


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink(missing_ok=True)
