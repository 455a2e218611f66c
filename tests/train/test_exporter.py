"""What a rank shows to monitors: with real sockets, files and trainings; nothing about it ends a run or changes it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import accidents, ranks
from train.liveness.exit_status import AGAIN
from train.recipe.config import LogConfig
from train.report import prometheus as exporter
from train.report.gauges import FIGURES, OF_EVERY_RANK, PREFIX, Gauges
from train.report.prometheus import Exporter, host_and_port, named_host

OPTIONAL = {"audio_gap", "dev_loss", "dev_token_accuracy_ratio", "dev_wer_ratio", "dev_best_wer_ratio"}
"""Figures of runs with a dev set, or of long ones."""


def figures(text: str) -> dict[str, float]:
    return {sample.name: sample.value for one in text_string_to_metric_families(text) for sample in one.samples}


def fetch(target: str) -> str:
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=300) as answer:
        return answer.read().decode()


def wait_until(holds, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


@contextmanager
def opened(log: LogConfig, folder: Path, rank: int = 0):
    """An exporter of a rank by itself, and what it said."""
    said: list[str] = []
    gauges = Gauges({"version": "1", "world_size": "1", "job_id": ""}, folder)
    shown = Exporter(log, gauges, {"run": "a run", "rank": str(rank), "host": "here"}, said.append)
    try:
        yield shown, said
    finally:
        shown.close()


@contextmanager
def listening():
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_every_rank_serves_its_figures_and_an_orderly_end_takes_its_announcement_away(ground, tmp_path):
    folder, shared = tmp_path / "run", tmp_path / "targets"
    arguments = [str(ground / "recipe.yaml"), f"run.dir={folder}", "optim.max_steps=100000", "save.every_steps=100000"]
    arguments += ["log.prometheus=127.0.0.1", f"log.prometheus_targets={shared}"]
    running = ranks.start(arguments, 2, tmp_path / "log")
    ranks.wait_for_step(folder, 3)
    announced = json.loads((folder / "prometheus" / "targets.json").read_text())
    assert announced == json.loads((shared / "run.json").read_text())
    host = socket.gethostname()
    assert [one["labels"] for one in announced] == [{"run": "run", "rank": str(r), "host": host} for r in (0, 1)]
    first, second = (figures(fetch(one["targets"][0])) for one in announced)
    every = {PREFIX + name for name in OF_EVERY_RANK}
    assert set(second) == every and set(first) == set(FIGURES) - {PREFIX + name for name in OPTIONAL}
    assert second["slam_asr_step"] >= 3 and second["slam_asr_planned_steps"] == 100000
    assert 0 < second["slam_asr_compute_seconds_total"] < 100 and second["slam_asr_audio_seconds_total"] > 0
    assert first["slam_asr_loss"] > 0 and abs(first["slam_asr_last_step_timestamp_seconds"] - time.time()) < 3600
    os.kill(running.processes[1].pid, signal.SIGTERM)
    assert running.wait() == [AGAIN, AGAIN]
    assert not (folder / "prometheus" / "targets.json").exists() and not (shared / "run.json").exists()


def test_after_a_kill_the_announcement_and_the_text_files_stay_and_the_next_end_takes_them_away(ground, tmp_path):
    folder, texts = tmp_path / "run", tmp_path / "texts"
    texts.mkdir()
    arguments = [str(ground / "recipe.yaml"), f"run.dir={folder}", "log.prometheus=127.0.0.1"]
    arguments += [f"log.prometheus_textfiles={texts}", "optim.max_steps=6"]
    killed = accidents.Signalled(signal.SIGKILL, (0, 1), nth=5)
    assert ranks.start(arguments, 2, tmp_path / "log", killed).wait() == [-9, -9]
    assert (folder / "prometheus" / "targets.json").exists()
    assert sorted(file.name for file in texts.glob("*.prom")) == ["slam_asr_run_00000.prom", "slam_asr_run_00001.prom"]
    left = figures((texts / "slam_asr_run_00001.prom").read_text())
    assert 1 <= left["slam_asr_step"] <= 4
    ranks.train(arguments, 2, tmp_path / "log")
    assert not (folder / "prometheus" / "targets.json").exists() and not list(texts.iterdir())


def in_a_hurry(rank: int) -> None:
    """A rank that does not wait long for a Pushgateway."""
    exporter.PUSH_SECONDS = 1.0


def test_the_same_bits_come_out_with_monitors_of_every_kind_that_all_fail(ground, tmp_path):
    """The port is taken, the folder for text files is missing, the Pushgateway takes connections and never answers."""
    recipe = str(ground / "recipe.yaml")
    ranks.train([recipe, f"run.dir={tmp_path / 'alone'}"], 2, tmp_path / "log")
    with listening() as port:
        given = [f"log.prometheus=127.0.0.1:{port}", f"log.prometheus_textfiles={tmp_path / 'none'}"]
        given += [f"log.pushgateway=http://127.0.0.1:{port}"]
        text = ranks.train([recipe, f"run.dir={tmp_path / 'watched'}", *given], 2, tmp_path / "log2", before=in_a_hurry)
    assert len(re.findall(rf"rank 0: cannot serve metrics on 127.0.0.1:{port}: .*; on port \d+ instead", text)) == 1
    assert text.count("cannot write metrics: [Errno 2]") == 1 and text.count("cannot push metrics: timed out") == 1
    alone, watched = (
        (tmp_path / name / "checkpoints" / "step-00000008" / "adapter.safetensors").read_bytes()
        for name in ("alone", "watched")
    )
    assert alone == watched


def test_a_port_that_is_taken_is_not_waited_for(tmp_path):
    with listening() as port, opened(LogConfig(), tmp_path) as (shown, _):
        found, said = shown.serve(f"127.0.0.1:{port - 1}", local_rank=1)
        assert found not in (0, port) and f":{port}" in said and f"on port {found} instead" in said
        assert figures(fetch(f"127.0.0.1:{found}"))["slam_asr_run_info"] == 1
    with opened(LogConfig(), tmp_path) as (shown, _):
        found, said = shown.serve("192.0.2.1", local_rank=0)  # of no host (RFC 5737)
        assert found == 0 and said.startswith("cannot serve metrics on 192.0.2.1:(any port): ")
    with opened(LogConfig(), tmp_path) as (shown, _):
        found, said = shown.serve("127.0.0.1:65535", local_rank=1)
        assert found and "instead" in said
    with opened(LogConfig(), tmp_path) as (shown, _):
        found, said = shown.serve("no..name:9400", local_rank=0)  # the resolver takes it for no name: a UnicodeError
        assert found == 0 and said.startswith("cannot serve metrics on no..name:")


@pytest.mark.parametrize(
    ("address", "pair", "reached"),
    [
        ("127.0.0.1", ("127.0.0.1", 0), "127.0.0.1"),
        ("localhost:9400", ("localhost", 9400), "localhost"),
        ("0.0.0.0:9400", ("0.0.0.0", 9400), "node7"),
        ("10.0.0.5:9400", ("10.0.0.5", 9400), "10.0.0.5"),
        ("[::1]:9400", ("::1", 9400), "[::1]"),
        ("[::]", ("::", 0), "node7"),
    ],
)
def test_an_address_is_told_apart_and_named_as_others_reach_it(address, pair, reached):
    assert host_and_port(address) == pair and named_host(address, "node7") == reached


def test_nobody_can_write_to_what_is_served(tmp_path):
    with opened(LogConfig(), tmp_path) as (shown, _):
        port, _ = shown.serve("127.0.0.1", 0)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(request, timeout=300)


def test_connections_that_say_nothing_take_few_files_and_threads_and_go(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(exporter, "ANSWER_SECONDS", 5.0)
    with opened(LogConfig(), tmp_path) as (shown, _):
        port, _ = shown.serve("127.0.0.1", 0)
        before = threading.active_count()
        with ExitStack() as idle:
            for _ in range(40):
                idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            wait_until(lambda: threading.active_count() == before + exporter.MOST_ANSWERS)
            wait_until(lambda: threading.active_count() == before)
            assert "slam_asr_run_info" in fetch(f"127.0.0.1:{port}")
    assert capfd.readouterr().err == ""


def test_a_folder_for_text_files_that_is_missing_or_full_is_said_once_and_tried_again(tmp_path):
    folder = tmp_path / "texts"
    with opened(LogConfig(prometheus_textfiles=str(folder)), tmp_path, 3) as (shown, said):
        for _ in range(3):
            shown.report()
            wait_until(lambda: said)
            time.sleep(0.05)
        assert len(said) == 1 and "cannot write metrics: [Errno 2]" in said[0]
        folder.mkdir()
        shown.report()
        wait_until(lambda: list(folder.glob("*.prom")))
        text = (folder / "slam_asr_a_run_00003.prom").read_text()
        assert 'slam_asr_restarts{host="here",rank="3",run="a run"} 0.0' in text
        shown.orderly = True
    assert not list(folder.iterdir()) and len(said) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_leaves_the_last_text_file_whole(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        with opened(LogConfig(prometheus_textfiles=str(tmp_path)), tmp_path) as (shown, said):
            shown.report()
            wait_until(lambda: list(tmp_path.glob("*.prom")))
            before = next(tmp_path.glob("*.prom")).read_text()
            (tmp_path / "ballast").write_bytes(b"\0" * shutil.disk_usage(tmp_path).free)
            shown.gauges.set(step=7)
            shown.report()
            wait_until(lambda: said)
            assert "No space left" in said[0] and [f.read_text() for f in tmp_path.glob("*.prom*")] == [before]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_pushgateway_that_is_down_is_said_once_and_holds_nobody_up(tmp_path):
    gateway = f"http://127.0.0.1:{ranks.free_port()}"
    with opened(LogConfig(pushgateway=gateway), tmp_path) as (shown, said):
        for _ in range(100):
            shown.report()
        wait_until(lambda: said)
        shown.report()
    assert len(said) == 1 and said[0].startswith("cannot push metrics: <urlopen error")
    assert not [thread for thread in threading.enumerate() if thread.name == "exporter"]


def test_an_orderly_end_takes_back_what_is_on_its_way_to_a_slow_pushgateway(tmp_path):
    told = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self):
            told.append(self.command)
            time.sleep(0.3 if self.command == "PUT" else 0)
            self.send_response(202)
            self.end_headers()

        do_DELETE = do_PUT

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gateway = f"http://127.0.0.1:{server.server_port}"
        with opened(LogConfig(pushgateway=gateway), tmp_path) as (shown, said):
            shown.report()
            wait_until(lambda: told)
            shown.orderly = True
        server.shutdown()
    assert told == ["PUT", "DELETE"] and not said


def test_a_counter_does_not_take_in_what_is_not_finite_and_a_restart_remembers_the_best_wer(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "4")
    gauges = Gauges({}, tmp_path)
    for seconds in (1.0, float("nan"), 2.0):
        gauges.add(compute_seconds_total=seconds)
    lines = [{"step": 2, "kind": "dev", "wer": 0.2}, {"step": 4, "kind": "dev", "wer": None}, {"step": 5}, 7]
    gauges.remember([*map(json.dumps, lines), '{"step": 6, "kind": "dev", "wer": 0.1'])
    gauges.write(8, "dev", {"loss": 1.0, "wer": 0.3})
    assert gauges.values["slam_asr_compute_seconds_total"] == 3 and gauges.values["slam_asr_restarts"] == 4
    assert gauges.values["slam_asr_dev_best_wer_ratio"] == 0.2 and gauges.values["slam_asr_dev_wer_ratio"] == 0.3
