"""Shows the figures of every rank (gauges.py) to Prometheus, in up to three ways. All are off unless the recipe asks.

    served        http://ADDRESS:PORT/metrics of each rank; where they are stands in RUN/prometheus/targets.json, which
                  Prometheus reads by itself (file_sd) and which gives every series its run, rank and host
    text files    one a rank, for the node exporter
    pushed        to a Pushgateway, one group a run and rank

Files and pushes are the business of a thread, so that a disk or a server that hangs holds nobody up. What fails is said
once and tried again at the next report: no metric ever ends a training. What a run leaves when it ends in order is
nothing; after a crash all of it stays, so that a monitor sees a target that is down or a step that gets old.
"""

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from data_prep.durable import write_durably
from train.dist.collectives import World
from train.recipe.config import LogConfig
from train.recipe.kinds import ADDRESS_FORM
from train.report.gauges import FIGURES, PREFIX, Gauges

PUSH_SECONDS = 5.0
"""How long a Pushgateway may take to answer."""
MOST_ANSWERS, ANSWER_SECONDS = 16, 10.0
"""Connections that are served at once, and how long one may say nothing; others are closed."""
LEAVE_SECONDS = 2 * PUSH_SECONDS + 1
"""How long the end of a run waits for its last push."""
JOB = "slam_asr"


class Exporter:
    """This rank's ways to show its figures."""

    def __init__(self, log: LogConfig, gauges: Gauges, labels: dict[str, str], say: Callable[[str], None]) -> None:
        """`labels` (run, rank, host) go where Prometheus does not add them by itself. `say` tells a person."""
        self.gauges, self.labels, self._say = gauges, labels, say
        self.targets: list[Path] = []
        """Files of the first rank that lead Prometheus to all ranks."""
        self.orderly = False
        """Whether the run has ended as it should: then nothing is left that an alert would fire on."""
        self._server: Server | None = None
        self._gateway = log.pushgateway
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", labels["run"])
        folder = log.prometheus_textfiles
        self._file = Path(folder) / f"slam_asr_{name}_{int(labels['rank']):05}.prom" if folder else None
        self._said: set[str] = set()
        self._due, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="exporter", daemon=True)
        if self._gateway or self._file:
            self._thread.start()

    def serve(self, address: str, local_rank: int) -> tuple[int, str]:
        """Listens from here on: the port, and what there is to say. Port 0 if it cannot.

        The port is that of the address plus the local rank; where that is in use or none is given, any free one.
        """
        host, port = host_and_port(address)
        wanted = [port + local_rank, 0] if port else [0]
        fault: Any = None
        for number in wanted:
            try:
                self._server = Server(host, number, self._registry({}))
            except (OSError, OverflowError, ValueError) as error:  # of a port beyond 65535, of a name that can be none
                fault = f"cannot serve metrics on {host}:{number or '(any port)'}: {error}"
                continue
            found = self._server.server_port
            return found, f"{fault}; on port {found} instead" if fault else ""
        return 0, str(fault)

    def report(self) -> None:
        """The figures are worth writing and pushing; returns at once."""
        self._due.set()

    def close(self) -> None:
        """No more of it. After an orderly end what was left for monitors is taken away."""
        self._closing = True
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_SECONDS)
        if self.orderly:
            for path in self.targets:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        if self._server:
            self._server.shutdown()  # of its loop
            self._server.server_close()

    def _work(self) -> None:
        closing = False
        while not closing:
            self._due.wait()
            self._due.clear()
            closing = self._closing  # after the event was cleared: an end that comes now sets it again
            if closing and self.orderly:
                self._tried("take back metrics", self._withdraw)
                return
            if self._file:
                self._tried("write metrics", self._write)
            if self._gateway:
                self._tried("push metrics", self._push)

    def _tried(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
            if what not in self._said:
                self._say(f"cannot {what}: {error}; training goes on, and this is tried again at each report")
            self._said.add(what)

    def _write(self) -> None:
        from prometheus_client import write_to_textfile

        write_to_textfile(str(self._file), self._registry(self.labels))  # under another name first

    def _push(self) -> None:
        from prometheus_client import push_to_gateway

        assert self._gateway
        push_to_gateway(self._gateway, JOB, self._registry(self.labels), self._group(), timeout=PUSH_SECONDS)

    def _withdraw(self) -> None:
        from prometheus_client import delete_from_gateway

        if self._file:
            self._file.unlink(missing_ok=True)
        if self._gateway:
            delete_from_gateway(self._gateway, JOB, self._group(), timeout=PUSH_SECONDS)

    def _group(self) -> dict[str, str]:
        return {name: self.labels[name] for name in ("run", "rank")}

    def _registry(self, labels: dict[str, str]) -> Any:
        """A registry of our own: none of the client's figures about this process."""
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(Families(self.gauges, labels))
        return registry


class Server(ThreadingHTTPServer):
    """Answers GET with a registry from here on. Whoever connects takes few threads and files of the training, briefly.

    The client's own server has no bounds: connections that say nothing would use up all that a process may open.
    """

    allow_reuse_port = False  # another process on the port is an error, not a lottery
    request_queue_size = 64

    def __init__(self, host: str, port: int, registry: Any) -> None:
        """OSError where it cannot listen; ValueError or OverflowError for what is no address."""
        from prometheus_client import MetricsHandler

        self._free = threading.Semaphore(MOST_ANSWERS)
        handler = MetricsHandler.factory(registry)
        setattr(handler, "timeout", ANSWER_SECONDS)  # noqa: B010 - pyright minds the plain form
        self.address_family, *_, (numeric, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__((str(numeric), port), handler)
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def server_bind(self) -> None:
        """Without the look-up of our name that HTTPServer adds: a name server may hang."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news of ours."""


class Families:
    """The gauges as prometheus_client's metric families, each series with `labels`."""

    def __init__(self, gauges: Gauges, labels: dict[str, str]) -> None:
        self._gauges, self._labels = gauges, labels

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, value in list(self._gauges.values.items()):
            labels = self._labels | (self._gauges.info if name == f"{PREFIX}run_info" else {})
            kind = CounterMetricFamily if FIGURES[name].counts else GaugeMetricFamily
            family = kind(name, FIGURES[name].help, labels=list(labels))
            family.add_metric(list(labels.values()), value)
            yield family


def open_exporter(log: LogConfig, world: World, folder: Path, gauges: Gauges, say: Callable[[str], None]) -> Exporter:
    """This rank's exporter; the first rank writes where all are. A collective, if they serve.

    `folder` is the run's, whose name is the run's; `say` is the report's, heard of the first rank alone.
    """
    labels = {"run": folder.resolve().name, "rank": str(world.rank), "host": socket.gethostname()}
    exporter = Exporter(log, gauges, labels, say if world.first else _on_stderr(world))
    if log.prometheus is None:
        if world.first:
            _forget(target_files(log, folder))
        return exporter
    port, fault = exporter.serve(log.prometheus, world.local_rank)
    host = named_host(log.prometheus, labels["host"])
    everywhere = world.gather((host, port, labels, fault))
    if world.first:
        for rank, (_, _, _, said) in enumerate(everywhere):
            if said:
                say(f"rank {rank}: {said}; training goes on")
        exporter.targets = target_files(log, folder)
        _lead_to([place[:3] for place in everywhere if place[1]], exporter.targets, say)
    return exporter


def target_files(log: LogConfig, folder: Path) -> list[Path]:
    """The run's own and, where the recipe names a folder for those of all runs, one there."""
    others = [Path(log.prometheus_targets) / f"{folder.resolve().name}.json"] if log.prometheus_targets else []
    return [folder / "prometheus" / "targets.json", *others]


def host_and_port(address: str) -> tuple[str, int]:
    """`127.0.0.1`, `0.0.0.0:9400`, `[::1]:9400`; port 0 where none is given."""
    match = ADDRESS_FORM.fullmatch(address)
    assert match  # the recipe was checked
    return match[1].strip("[]"), int(match[2] or 0)


def named_host(address: str, hostname: str) -> str:
    """Where others reach what listens on `address`: there, or at the host's own name if it listens everywhere."""
    host, _ = host_and_port(address)
    with suppress(ValueError):  # a name
        if ip_address(host).is_unspecified:
            return hostname
    return f"[{host}]" if ":" in host else host


def _lead_to(
    places: Sequence[tuple[str, int, dict[str, str]]], files: Sequence[Path], say: Callable[[str], None]
) -> None:
    """Writes the targets as Prometheus's file_sd takes them: whole or not at all, as it reads them at any moment."""
    groups = [{"targets": [f"{host}:{port}"], "labels": labels} for host, port, labels in places]
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, json.dumps(groups, indent=1).encode())
        except OSError as error:
            say(f"cannot write {file}: {error.strerror}; training goes on")


def _forget(files: Sequence[Path]) -> None:
    """Of an earlier life that served and crashed: this one does not, and is not down."""
    for file in files:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _on_stderr(world: World) -> Callable[[str], None]:
    """One voice a host: its first rank's."""

    def say(text: str) -> None:
        if world.local_rank == 0:
            with suppress(OSError):
                os.write(2, f"rank {world.rank}: {text}\n".encode())

    return say
