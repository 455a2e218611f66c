"""What a rank serves to Prometheus, with real sockets and trainings; no failure of it ends or changes a run."""

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.errors import UserError
from tests import accidents, ranks
from train.liveness.exit_status import AGAIN
from train.recipe.config import load_config
from train.report import prometheus
from train.report.prometheus import FIGURES, OF_EVERY_RANK, PREFIX, Exporter, Gauges, host_and_port, reachable_host

OPTIONAL = {"audio_gap", "dev_loss", "dev_token_accuracy_ratio", "dev_wer_ratio", "dev_best_wer_ratio"}
OPTIONAL |= {"dev_hallucinated_words", "dev_silent_utterances"}
"""Metrics of runs with a dev set, or of long ones."""


def metrics(text: str) -> dict[str, float]:
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def fetch(target: str) -> str:
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=300) as answer:
        return answer.read().decode()


def wait_until(holds, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


@contextmanager
def serving(folder: Path, address: str, local_rank: int = 0) -> Iterator[tuple[int, str]]:
    """One rank's exporter: its port and warning."""
    exporter = Exporter()
    try:
        yield exporter.serve(Gauges({"version": "1", "world_size": "1", "job_id": ""}, folder), address, local_rank)
    finally:
        exporter.close()


@contextmanager
def listening():
    """A server that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_every_rank_serves_its_metrics_and_an_orderly_end_removes_its_targets(ground, tmp_path):
    folder, shared = tmp_path / "run", tmp_path / "targets"
    arguments = [str(ground / "recipe.yaml"), f"run.dir={folder}", "optim.max_steps=100000", "save.every_steps=100000"]
    arguments += ["log.prometheus=127.0.0.1", f"log.prometheus_targets={shared}"]
    running = ranks.start(arguments, 2, tmp_path / "log")
    ranks.wait_for_step(folder, 3)
    groups = json.loads((folder / "prometheus" / "targets.json").read_text())
    assert groups == json.loads((shared / "run.json").read_text())
    host = socket.gethostname()
    assert [group["labels"] for group in groups] == [{"run": "run", "rank": str(r), "host": host} for r in (0, 1)]
    first, second = (metrics(fetch(group["targets"][0])) for group in groups)
    every = {PREFIX + name for name in OF_EVERY_RANK}
    assert set(second) == every and set(first) == set(FIGURES) - {PREFIX + name for name in OPTIONAL}
    assert second["slam_asr_step"] >= 3 and second["slam_asr_planned_steps"] == 100000
    assert 0 < second["slam_asr_compute_seconds_total"] < 100 and second["slam_asr_audio_seconds_total"] > 0
    assert first["slam_asr_loss"] > 0 and abs(first["slam_asr_last_step_timestamp_seconds"] - time.time()) < 3600
    os.kill(running.processes[1].pid, signal.SIGTERM)
    assert running.wait() == [AGAIN, AGAIN]
    assert not (folder / "prometheus" / "targets.json").exists() and not (shared / "run.json").exists()


def test_a_crash_leaves_the_targets_and_the_next_start_with_a_taken_port_trains_the_same_bits(
    ground, straight, tmp_path
):
    folder, file = tmp_path / "run", tmp_path / "run" / "prometheus" / "targets.json"
    recipe = str(ground / "recipe.yaml")
    arguments = [recipe, f"run.dir={folder}", "log.prometheus=127.0.0.1"]
    killed = accidents.Signalled(signal.SIGKILL, (0, 1), nth=5)
    assert ranks.start(arguments, 2, tmp_path / "log", killed).wait() == [-9, -9]
    assert file.exists()
    with listening() as port:
        text = ranks.train([*arguments, f"log.prometheus=127.0.0.1:{port}"], 2, tmp_path / "log2")
    assert len(re.findall(rf"rank 0: cannot serve metrics on 127.0.0.1:{port}: .* port \d+ instead", text)) == 1
    assert not file.exists()
    weights = [run / "checkpoints" / "step-00000008" / "adapter.safetensors" for run in (folder, straight(2))]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_port_that_cannot_be_had_is_replaced_or_named(tmp_path):
    with listening() as port, serving(tmp_path, str(port - 1), local_rank=1) as (found, warning):
        assert found not in (0, port) and f"127.0.0.1:{port}" in warning and f"port {found} instead" in warning
        assert metrics(fetch(f"127.0.0.1:{found}"))["slam_asr_run_info"] == 1
    with serving(tmp_path, "127.0.0.1:65535", local_rank=1) as (found, warning):
        assert found and "65536" in warning
    for address in ("192.0.2.1", "no..name:9400"):  # of no host (RFC 5737); no name for the resolver: a UnicodeError
        with serving(tmp_path, address) as (found, warning):
            assert found == 0 and warning.startswith(f"cannot serve metrics on {address.split(':')[0]}:")


@pytest.mark.parametrize(
    ("address", "pair", "reached"),
    [
        ("9400", ("127.0.0.1", 9400), "127.0.0.1"),
        ("127.0.0.1", ("127.0.0.1", 0), "127.0.0.1"),
        ("localhost:9400", ("localhost", 9400), "localhost"),
        ("0.0.0.0:9400", ("0.0.0.0", 9400), "node7"),
        ("10.0.0.5:9400", ("10.0.0.5", 9400), "10.0.0.5"),
        ("[::1]:9400", ("::1", 9400), "[::1]"),
        ("[::]", ("::", 0), "node7"),
    ],
)
def test_an_address_is_split_and_named_as_others_reach_it(address, pair, reached):
    assert host_and_port(address) == pair and reachable_host(address, "node7") == reached


def test_nobody_can_write_to_the_server_and_silent_connections_are_closed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(prometheus, "IDLE_SECONDS", 1.0)
    with serving(tmp_path, "127.0.0.1") as (port, _):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=300)
        before = threading.active_count()
        with ExitStack() as idle:
            for _ in range(40):
                idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert "slam_asr_run_info" in fetch(f"127.0.0.1:{port}")
            wait_until(lambda: threading.active_count() <= before)
    assert capfd.readouterr().err == ""


def test_counters_ignore_what_is_not_finite_and_a_restart_restores_the_best_wer(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "4")
    gauges = Gauges({}, tmp_path)
    for seconds in (1.0, float("nan"), 2.0):
        gauges.add(compute_seconds_total=seconds)
    gauges.restore([{"step": 2, "kind": "dev", "wer": 0.2}, {"step": 4, "kind": "dev", "wer": None}, {"step": 5}])
    gauges.write(8, "dev", {"loss": 1.0, "wer": 0.3})
    assert gauges.values["slam_asr_compute_seconds_total"] == 3 and gauges.values["slam_asr_restarts"] == 4
    assert gauges.values["slam_asr_dev_best_wer_ratio"] == 0.2 and gauges.values["slam_asr_dev_wer_ratio"] == 0.3


@pytest.mark.parametrize("key", ["log.pushgateway", "log.prometheus_textfiles"])
def test_a_key_of_earlier_versions_names_what_replaces_it_and_null_is_accepted(ground, key):
    assert load_config(ground / "recipe.yaml", [f"{key}=null"]) == load_config(ground / "recipe.yaml")
    with pytest.raises(UserError, match=rf"{key}.*log\.prometheus .*log\.prometheus_targets"):
        load_config(ground / "recipe.yaml", [f"{key}=http://127.0.0.1:9091"])
