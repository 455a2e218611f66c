"""A real Prometheus finds the four ranks of a real training by file_sd, and asks them what the dashboard shows.

The rules are held against promtool, and the names in all of them against what is exported.
"""

import json
import os
import re
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ranks
from tests.cluster.conftest import require
from tests.train.conftest import make_ground
from train.liveness.exit_status import AGAIN
from train.report.prometheus import FIGURES

MONITORING = ranks.ROOT / "launch" / "monitoring"
RANKS = [str(rank) for rank in range(4)]
OF_PROMETHEUS = {"up", "ALERTS"}
OPERATORS = {"and", "or", "unless", "offset", "bool"}


@dataclass
class Yard:
    """A training that goes on, and what watches it."""

    training: ranks.Ranks
    run: Path
    targets: Path
    prometheus: str

    def ask(self, path: str, **query: str) -> Any:
        """What Prometheus's API answers; what it cannot parse fails with HTTP 400."""
        return json.loads(fetch(f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"))["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        return self.ask("query", query=expression)["result"]


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=300) as answer:
        return answer.read().decode()


def wait_until(holds, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


def promtool(*arguments: str, told: str = "") -> str:
    """What it said; fails where promtool finds fault."""
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, input=told, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@contextmanager
def server(log: Path, *command: str) -> Iterator[None]:
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.terminate()
        process.wait(300)


def answers(address: str) -> bool:
    with suppress(OSError):
        return bool(fetch(f"{address}/-/ready"))
    return False


def settings(folder: Path, targets: Path) -> Path:
    """Our example of a configuration, hasty, with its folder and its rules where they are here."""
    own = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    own["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    own["rule_files"] = []
    for name in ("recording_rules.yml", "alert_rules.yml"):
        (folder / name).write_text((MONITORING / name).read_text().replace("interval: 15s", "interval: 1s"))
        own["rule_files"].append(name)
    (scraped,) = own["scrape_configs"]
    (discovery,) = scraped["file_sd_configs"]
    discovery["files"][0] = discovery["files"][0].replace("/shared/slam_asr/targets", str(targets))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(own))
    return folder / "prometheus.yml"


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    require("prometheus")
    folder = tmp_path_factory.mktemp("monitored")
    ground, targets = make_ground(folder), folder / "targets"
    targets.mkdir()
    address = f"127.0.0.1:{ranks.free_port()}"
    given = [f"--config.file={settings(folder, targets)}", f"--storage.tsdb.path={folder / 'series'}"]
    with server(folder / "prometheus.log", "prometheus", *given, f"--web.listen-address={address}"):
        arguments = [str(ground / "recipe.yaml"), "optim.max_steps=100000", "save.every_steps=100000"]
        arguments += [f"data.dev={ground / 'dev'}", "eval.every_steps=20", "eval.wer=true", "eval.max_new_tokens=2"]
        arguments += ["watch.every_steps=5", "log.prometheus=127.0.0.1", f"log.prometheus_targets={targets}"]
        training = ranks.start(arguments, 4, folder / "log")
        wait_until(lambda: answers(f"http://{address}"))
        yield Yard(training, ground / "run", targets / "run.json", f"http://{address}")
        for process in training.processes:
            process.kill()


def expressions(node: Any) -> Iterator[str]:
    """Every `expr` in a dashboard or in rules."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == "expr")
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from expressions(inner)


def read(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())  # of which JSON is a part


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in read(name)["groups"] for rule in group["rules"]]


def names(expression: str) -> set[str]:
    """The metrics that it names: what is no function, no keyword, no label, no string and no duration."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"(?<![\w:.])([A-Za-z_:][\w:]*)\s*(\(?)", bare)
    return {word for word, call in words if not call} - OPERATORS


RECORDED = {rule["record"] for rule in rules("recording_rules.yml")}
ALL = [
    (name, one)
    for name in ("dashboard.json", "recording_rules.yml", "alert_rules.yml")
    for one in expressions(read(name))
]


def test_promtool_accepts_the_rules_and_the_example_and_every_alert_fires_in_its_case_alone():
    require("promtool")
    said = promtool("check", "rules", "recording_rules.yml", "alert_rules.yml") + promtool(
        "test", "rules", "rules_test.yml"
    )
    assert "SUCCESS" in said and "FAILED" not in said
    assert "2 rule files found" in promtool("check", "config", "prometheus.yml")
    cases = {case["name"]: case for case in read("rules_test.yml")["tests"]}
    expected = [
        sample["labels"] for case in cases.values() for one in case["promql_expr_test"] for sample in one["exp_samples"]
    ]
    firing = {
        match[1] for match in (re.search('alertname="(.*?)", alertstate="firing"', text) for text in expected) if match
    }
    assert firing == {rule["alert"] for rule in rules("alert_rules.yml")}
    healthy = cases["a healthy run of two ranks, restarted once, whose WER falls"]
    fed = {series["series"].partition("{")[0] for series in healthy["input_series"]}
    named = set[str]().union(
        *(names(rule["expr"]) for kind in ("recording", "alert") for rule in rules(f"{kind}_rules.yml"))
    )
    assert named - RECORDED == fed  # so that none is silent for want of figures


def test_what_is_shown_and_what_alerts_ask_for_is_exported_or_recorded():
    assert len(ALL) > 40
    for file, expression in ALL:
        found = names(expression)
        assert found and found <= {*FIGURES, *RECORDED, *OF_PROMETHEUS}, (file, expression)
    for rule in rules("alert_rules.yml"):
        assert set(rule["annotations"]) == {"summary", "description", "action"} and rule["labels"]["severity"]


def test_prometheus_discovers_all_ranks_and_has_a_series_of_each(yard):
    wait_until(lambda: len(yard.series('up{job="slam_asr"} == 1')) == 4)
    wait_until(lambda: len(yard.series("slam_asr_step > 0")) == 4)
    labels = [sample["metric"] for sample in yard.series("slam_asr_step")]
    assert sorted(label["rank"] for label in labels) == RANKS
    assert {(label["run"], label["host"]) for label in labels} == {("run", os.uname().nodename)}
    assert {label["instance"].split(":")[0] for label in labels} == {"127.0.0.1"}
    (loss,) = yard.series("slam_asr_loss")
    assert loss["metric"]["rank"] == "0" and 0 < float(loss["value"][1]) < 100


def test_promtool_finds_no_fault_in_what_a_rank_shows(yard):
    require("promtool")
    wait_until(yard.targets.exists)
    wait_until(lambda: "slam_asr_dev_wer_ratio " in fetch(places(yard)[0]))
    for text in map(fetch, places(yard)):
        assert not promtool("check", "metrics", told=text)
        assert str(yard.run.parent) not in text


def places(yard: Yard) -> list[str]:
    return [f"http://{target}/metrics" for group in json.loads(yard.targets.read_text()) for target in group["targets"]]


def test_every_panel_has_something_to_show_and_every_rule_is_evaluated(yard):
    shown = [one.replace("$run", "run").replace("$rank", ".*") for one in expressions(read("dashboard.json"))]
    wait_until(lambda: not [one for one in shown if not one.startswith("ALERTS") and not yard.series(one)])
    assert yard.series('ALERTS{alertname=~"SlamAsr.*", alertstate="firing", run="run"}') == []
    groups = yard.ask("rules")["groups"]
    assert sum(len(group["rules"]) for group in groups) == len(rules("recording_rules.yml")) + len(
        rules("alert_rules.yml")
    )
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    for rule in rules("recording_rules.yml") + rules("alert_rules.yml"):
        yard.series(rule["expr"])


def test_an_orderly_end_removes_all_targets(yard):
    os.kill(yard.training.processes[2].pid, signal.SIGTERM)
    assert yard.training.wait() == [AGAIN] * 4
    assert "cannot" not in yard.training.text()
    assert not yard.targets.exists() and not (yard.run / "prometheus" / "targets.json").exists()
    wait_until(lambda: not yard.ask("targets", state="active")["activeTargets"])
