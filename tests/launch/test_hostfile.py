"""`slam-asr launch hostfile` short of other hosts: what it refuses, and what would get there. See tests/cluster/."""

import os
import re
import shlex
import subprocess

import pytest

from launch.command import main
from launch.deepspeed import environment, slots, ssh
from launch.deepspeed.written import write_secrets
from model.errors import UserError
from train.recipe.config import load_config

RECIPE = """
model: {encoder: e, llm: l}
data: {train: shards}
optim: {max_steps: 8, warmup_steps: 3}
"""


@pytest.fixture
def plain(tmp_path):
    """A recipe whose models are never opened."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + f"run: {{dir: {tmp_path}/run}}\n")
    return path


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
    monkeypatch.setenv("HF_HOME", "/data/$hf")
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", "-p 2222 -o ServerAliveInterval=5")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".deepspeed_env").write_text("# mine\n\nCC=gcc-12\n")
    given = ["launch", "hostfile", str(hosts), str(plain), "data.train=[$;*,(b]", "--include", "node2@node1:1"]
    assert main([*given, "--env", "WANDB_API_KEY=hush hush", "-e", "LD_LIBRARY_PATH=/opt/a b", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "hush" not in out + err and "it looks secret (--env NAME carries it): HF_TOKEN, MLFLOW_TRACKING" in err
    words, folder = shlex.split(out), tmp_path / "run" / "launch"
    assert "-u" in words and words[words.index("-u") + 1] == "MLFLOW_TRACKING_PASSWORD"
    assert f"DS_ENV_FILE={folder}/environment" in words
    appended = "-p 2222 -o ServerAliveInterval=5 -o ServerAliveInterval=15 -o ServerAliveCountMax=19 -o BatchMode=yes"
    assert f"PDSH_SSH_ARGS_APPEND={appended}" in words, "the person's own comes first: ssh takes the first"
    assert all(re.fullmatch(r"[\w@+=:,./-]+", word) for word in words[words.index("--module") :])
    assert "--include=node2@node1:1" in words and words[words.index("--master_addr") + 1] == "node1"
    lines = (folder / "environment").read_text().splitlines()
    assert lines[0] == "CC=gcc-12" and "HF_HOME=/data/\\$hf" in lines and "LD_LIBRARY_PATH=/opt/a b" in lines
    assert "DS_ACCELERATOR=cpu" in lines and all("=" in line and "hush" not in line for line in lines)
    assert lines[-1] == next(word for word in words if word.startswith("SLAM_ASR_LAUNCH="))
    assert (folder / "hostfile").read_text() == "node1 slots=2\nnode2 slots=4\n"
    assert load_config(folder / "recipe.yaml").data.train == ("$;*", "(b")
    assert not list(folder.glob("secrets*")), "a dry run leaves none"


def test_a_secret_that_is_asked_for_lies_in_a_file_of_its_owner(tmp_path):
    path = write_secrets(tmp_path, {"HF_TOKEN": "a'b $c\nd"})
    assert path.stat().st_mode & 0o777 == 0o600
    said = subprocess.run(["bash", "-c", f'source {path}; printf %s "$HF_TOKEN"'], capture_output=True, text=True)
    assert said.stdout == "a'b $c\nd"


@pytest.mark.parametrize("value", ["", "plain", "a b", 'say "x"', "$HOME `id` \\", "100%h %n", "it's;*(?", "ü"])
def test_what_the_environment_file_holds_arrives_as_it_is(value, monkeypatch):
    """deepspeed's own code between, then pdsh's substitution, then a real shell."""
    runner = pytest.importorskip("deepspeed.launcher.multinode_runner").MultiNodeRunner
    exports: dict[str, str] = {}
    carrier = type("Runner", (), {"exports": exports})()
    for line in environment.to_file({"X": value}).splitlines(keepends=True):
        key, val = line.split("=", maxsplit=1)
        runner.add_export(carrier, key, val)
    sent = f"export X={exports['X']}; printf %s".replace("printf %s", "printf %%s") + ' "$X"'
    remote = re.sub(r"%(.)", lambda found: {"%": "%"}.get(found[1], "OTHER"), sent)
    assert subprocess.run(["sh", "-c", remote], capture_output=True, text=True).stdout == value


@pytest.mark.parametrize("value", ["two\nlines", " ends ", "a\x1b[2J"])
def test_what_cannot_be_carried_is_refused(value):
    with pytest.raises(UserError, match="^X is .*; change it or unset it$"):
        environment.to_file({"X": value})


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "names no host; write a line such as"),
        ("node1", "line 1: 'node1' is no line of a hostfile; write HOST slots=NUMBER"),
        ("node1:4", "line 1: 'node1:4' is no line of a hostfile; write node1 slots=4"),
        ("\nnode1 slots=4x", "line 2: 'node1 slots=4x' is no line"),
        ("node1 slots=0", "line 1: 'node1 slots=0' has no slots"),
        ("node1 slots=2 max_slots=4", "line 1: 'node1 slots=2 max_slots=4' is no line"),
        ("node1 slots=2\n#\nnode1 slots=3", "line 3: node1 was in line 1 already"),
        ("root@node1 slots=2", "names a user; write the host alone"),
        ("node[1-4] slots=2", "names several hosts; write a line for each"),
        ("-oProxyCommand=x slots=2", "is no line of a hostfile"),
        ("node1 slots=2\ngone slots=2", "line 2: gone is not known here; correct the name"),
        ("node1 slots=2\ngone slots=2\nfar slots=1", "line 2: gone is not known here (2 hosts in all)"),
    ],
)
def test_a_wrong_line_of_a_hostfile_is_named(text, said, tmp_path):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        slots.read_hostfile(tmp_path / "hosts", lambda host: host.startswith("node"))


@pytest.mark.parametrize(
    "include, exclude, left",
    [
        ("", "", {"a": [0, 1], "b": [0, 1, 2]}),
        ("b:2,0@a", "", {"a": [0, 1], "b": [0, 2]}),
        ("", "b:1", {"a": [0, 1], "b": [0, 2]}),
        ("", "a", {"b": [0, 1, 2]}),
        ("c", "", "--include: 'c' is not in the hostfile"),
        ("b:3", "", "--include: b has no slot '3'; it has 0 to 2"),
        ("a", "b", "--include and --exclude are both given"),
        ("", "a@b", "--exclude 'a@b' leaves no host"),
    ],
)
def test_include_and_exclude_choose_as_deepspeed_does(include, exclude, left):
    parse = pytest.importorskip("deepspeed.launcher.runner").parse_inclusion_exclusion
    hosts = {"a": [0, 1], "b": [0, 1, 2]}
    if isinstance(left, str):
        with pytest.raises(UserError, match=re.escape(left)):
            slots.choose(hosts, include, exclude)
    else:
        assert slots.choose(hosts, include, exclude) == left
        assert parse({host: len(own) for host, own in hosts.items()}, include, exclude) == left


@pytest.mark.parametrize(
    "options, said",
    [
        (["--no-ssh"], "--node-rank is None; with --no-ssh each host has its own, from 0 to 1"),
        (["--no-ssh", "--node-rank", "2"], "--node-rank is 2;"),
        (["--no-ssh", "--node-rank", "0"], "--no-ssh needs --master-port, the same on every host"),
        (["--node-rank", "0"], "--node-rank goes with --no-ssh"),
        (["--master-port", "70000"], "'70000' is no port from 1 to 65535"),
        (["--include", "here"], "--include: 'here' is not in the hostfile"),
        (["--env", "NOT_SET_AT_ALL"], "--env NOT_SET_AT_ALL: it is not set here"),
        (["--env", "a b=c"], "'a b' is no variable's name"),
        (["--hostfle", "x"], "--hostfle is no option of `slam-asr launch hostfile`"),
        (["run.dir=my runs"], "run.dir is 'my runs', which the shells of other hosts would not take"),
        (["--deepspeed", "zero9"], "zero9"),
        (["optim.lrr=1"], "optim.lrr"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(options, said, plain, hosts, tmp_path, capsys):
    assert main(["launch", "hostfile", str(hosts), str(plain), *options]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_hostfile_of_this_host_alone_is_told_how_to_train_here(plain, hosts, capsys):
    hosts.write_text("localhost slots=4\n")
    assert main(["launch", "hostfile", str(hosts), str(plain)]) == 2
    assert f"give `slam-asr launch local {plain} --ranks 4`" in capsys.readouterr().err


@pytest.mark.parametrize("seconds, options", [(300, "15 19"), (600, "15 39"), (8, "2 3"), (1, "1 1")])
def test_a_dead_connection_is_given_up_as_soon_as_the_ranks_give_up(seconds, options):
    interval, count = options.split()
    assert ssh.keep_alive(seconds) == f"-o ServerAliveInterval={interval} -o ServerAliveCountMax={count}".split()
    assert int(interval) * (int(count) + 1) <= max(seconds, 2)
