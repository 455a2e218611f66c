"""`slam-asr launch hostfile` short of other hosts: what it refuses, and what would get there. See tests/cluster/."""

import os
import re
import shlex
import shutil
import socket
import subprocess

import pytest

from launch.command import main
from launch.deepspeed import hostfile, ssh
from launch.deepspeed.running import Launch
from model.errors import UserError
from train.recipe.config import load_config


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """A hostfile of two hosts that resolve, with pdsh on the PATH."""
    monkeypatch.setattr(ssh, "known", lambda host: True)
    monkeypatch.setattr(ssh, "resolves", lambda host: True)
    (tmp_path / "bin").mkdir()
    for program in ("pdsh", "ssh"):
        (tmp_path / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    path = tmp_path / "hosts"
    path.write_text("# ours\nnode1 slots=2\n\nnode2  slots=4  # the big one\n")
    return path


def test_a_hostfile_launch_passes_nothing_that_a_remote_shell_would_read_otherwise(
    plain, hosts, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_HOME", "/data/$hf it's 100%h\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    for secret in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(secret, "hush")
    monkeypatch.chdir(tmp_path)
    given = ["launch", "hostfile", str(hosts), str(plain), "data.train=[$;*,(b]", "--include", "node2@node1:1"]
    assert main([*given, "--env", "WANDB_API_KEY=hush hush", "-e", "LD_LIBRARY_PATH=/opt/a b", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    words, folder = shlex.split(out), tmp_path / "run" / "launch"
    assert "hush" not in out + err and err.rstrip().endswith(": HF_TOKEN, MLFLOW_TRACKING_PASSWORD")
    assert all(re.fullmatch(r"[\w@+=:,./-]+", word) for word in words[words.index("--module") :])
    assert words[words.index("--hostfile") + 1] == str(hosts) and "--include=node2@node1:1" in words
    assert words[words.index("--master_addr") + 1] == "node1"
    assert words[words.index("--venv_script") + 1] == f"/dev/null; . {folder}/exports.sh"
    assert load_config(folder / "recipe.yaml").data.train == ("$;*", "(b")
    assert "hush" not in (folder / "exports.sh").read_text(), "a dry run leaves no secret"
    for shell in ("bash", "dash"):  # as deepspeed has it, whose own exports come after it
        script = f"source /dev/null; . {folder}/exports.sh; env -0"
        sent = subprocess.run([shell, "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
        there = dict(line.split("=", 1) for line in sent.stdout.split("\0") if line)
        assert there["HF_HOME"] == os.environ["HF_HOME"] and there["LD_LIBRARY_PATH"] == "/opt/a b"
        assert there["DS_ACCELERATOR"] == "cpu" and "CUDA_VISIBLE_DEVICES" not in there


def test_secrets_go_by_a_file_of_their_owner_and_never_by_deepspeed(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    monkeypatch.setenv("RANK", "1")
    path = ssh.write_exports(tmp_path, {"MLFLOW_TRACKING_PASSWORD": "hush"}, without_secrets=False)
    assert path.stat().st_mode & 0o777 == 0o600 and "export MLFLOW_TRACKING_PASSWORD=hush\n" in path.read_text()
    inherited = Launch([], tmp_path, removed=ssh.shown_secrets()).env()
    assert "PATH" in inherited and not {"RANK", "MLFLOW_TRACKING_PASSWORD"} & inherited.keys()


def test_lines_of_a_deepspeed_env_file_are_carried_or_refused_by_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DS_ENV_FILE", "env")
    (tmp_path / "env").write_text("# ours\n\nNCCL_DEBUG=INFO\n")
    path = ssh.write_exports(tmp_path, {}, without_secrets=False)
    assert path.read_text().startswith("export NCCL_DEBUG=INFO\n")
    (tmp_path / "env").write_text("A=1\nno variable\n")
    with pytest.raises(UserError) as refusal:
        ssh.write_exports(tmp_path, {}, without_secrets=False)
    assert all(value in str(refusal.value) for value in (str(tmp_path / "env"), "line 2", "'no variable'"))


def test_this_host_is_known_by_any_of_its_addresses():
    assert all(map(ssh.is_this_host, ("localhost", "127.0.1.1", socket.gethostname())))
    assert not ssh.is_this_host("192.0.2.1")  # of documentation (RFC 5737)


def test_ssh_options_of_the_person_come_first_and_dead_connections_end_with_the_ranks(monkeypatch):
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", "-p 2222 -o ServerAliveInterval=5")
    assert ssh.for_pdsh(300).startswith("-p 2222 -o ServerAliveInterval=5 -o ServerAliveInterval=15 ")
    monkeypatch.delenv("PDSH_SSH_ARGS_APPEND")
    for seconds, interval, count in ((300, 15, 19), (600, 15, 39), (8, 2, 3), (1, 1, 1)):
        alive = f"-o ServerAliveInterval={interval} -o ServerAliveCountMax={count} -o BatchMode=yes"
        assert ssh.for_pdsh(seconds) == alive and interval * (count + 1) <= max(seconds, 2)


@pytest.mark.parametrize(
    "text, values",
    [
        ("", ("names no host",)),
        ("node1", ("line 1: 'node1'",)),
        ("node1:4", ("line 1: 'node1:4'",)),
        ("\nnode1 slots=4x", ("line 2: 'node1 slots=4x'",)),
        ("node1 slots=0", ("line 1: 'node1 slots=0'",)),
        ("node1 slots=2 max_slots=4", ("line 1: 'node1 slots=2 max_slots=4'",)),
        ("node1 slots=2\n#\nnode1 slots=3", ("line 3: node1",)),
        ("root@node1 slots=2", ("line 1: 'root@node1 slots=2'", "~/.ssh/config")),
        ("node[1-4] slots=2", ("line 1: 'node[1-4] slots=2'", "own line")),
        ("-oProxyCommand=x slots=2", ("line 1: '-oProxyCommand=x slots=2'",)),
        (None, ("cannot read",)),
        ("\0\xff", ("line 1:",)),
        ("#" * (1 << 20) + "#", ("cannot read",)),
    ],
)
def test_a_line_that_is_none_of_a_hostfile_is_named(text, values, tmp_path):
    if text is not None:
        (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError) as refusal:
        hostfile.read_hostfile(tmp_path / "hosts")
    assert all(value in str(refusal.value) for value in (*values, str(tmp_path / "hosts")))


@pytest.mark.parametrize(
    "include, exclude, left",
    [
        ("", "", {"a": [0, 1], "b": [0, 1, 2]}),
        ("b:2,0@a", "", {"a": [0, 1], "b": [0, 2]}),
        ("", "b:1", {"a": [0, 1], "b": [0, 2]}),
        ("", "a", {"b": [0, 1, 2]}),
        ("c", "", "--include: 'c'"),
        ("b:3", "", "--include: b has no slot '3'"),
        ("a", "b", "--include and --exclude"),
        ("", "a@b", "--exclude 'a@b'"),
    ],
)
def test_include_and_exclude_choose_as_deepspeed_does(include, exclude, left):
    parse = pytest.importorskip("deepspeed.launcher.runner").parse_inclusion_exclusion
    hosts = {"a": [0, 1], "b": [0, 1, 2]}
    if isinstance(left, str):
        with pytest.raises(UserError, match=re.escape(left)):
            hostfile.choose(hosts, include, exclude)
    else:
        assert hostfile.choose(hosts, include, exclude) == left
        assert parse({host: len(own) for host, own in hosts.items()}, include, exclude) == left


@pytest.mark.parametrize(
    "options, message",
    [
        (["--no-ssh"], "--node-rank is None"),
        (["--no-ssh", "--node-rank", "2"], "--node-rank is 2;"),
        (["--no-ssh", "--node-rank", "0"], "--no-ssh needs --master-port"),
        (["--node-rank", "0"], "--node-rank goes with --no-ssh"),
        (["--master-port", "70000"], "--master-port is 70000"),
        (["--include", "here"], "--include: 'here'"),
        (["--env", "NOT_SET_AT_ALL"], "--env NOT_SET_AT_ALL"),
        (["--env", "a b=c"], "--env 'a b=c'"),
        (["--hostfle", "x"], "--hostfle is no option of `slam-asr launch hostfile`"),
        (["run.dir=my runs"], "run.dir is 'my runs'"),
        (["--deepspeed", "zero9"], "zero9"),
        (["optim.lrr=1"], "optim.lrr"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(options, message, plain, hosts, tmp_path, capsys):
    assert main(["launch", "hostfile", str(hosts), str(plain), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_hosts_that_cannot_meet_are_refused_with_what_to_give(plain, hosts, monkeypatch, capsys):
    hosts.write_text("localhost slots=4\n")
    assert main(["launch", "hostfile", str(hosts), str(plain)]) == 2
    assert f"`slam-asr launch local {plain} --ranks 4`" in capsys.readouterr().err
    monkeypatch.setattr(ssh, "known", lambda host: host != "gone")
    hosts.write_text("node1 slots=4\ngone slots=4\n")
    assert main(["launch", "hostfile", str(hosts), str(plain)]) == 2
    assert "gone is not known here" in capsys.readouterr().err
    hosts.write_text("localhost slots=4\nnode1 slots=4\n")
    assert main(["launch", "hostfile", str(hosts), str(plain)]) == 2
    assert "localhost" in (line := capsys.readouterr().err) and "--master-addr" in line
    shutil.rmtree(hosts.parent / "bin")
    monkeypatch.setenv("PATH", "")
    hosts.write_text("node1 slots=4\n")
    assert main(["launch", "hostfile", str(hosts), str(plain)]) == 2
    assert "install openssh-client" in capsys.readouterr().err
