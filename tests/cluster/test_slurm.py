"""A real Slurm of two nodes: a job that was killed, preempted or cut off ends with the adapter of an undisturbed one.

Under proctrack/cgroup, as in production, where this machine allows it: there only what srun itself started gets a
signal. The slow cases (the time limit, a node that dies) wait while other jobs run.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from data_prep.shards.opening import read_index
from tests import ranks
from tests.cluster.conftest import require
from tests.cluster.slurm import PROGRAMS, output_of, slurm_cluster
from tests.cluster.submissions import ENVIRONMENT, ONE_NODE, SAVED, STEPS, Submissions, assert_same, fail_node
from tests.train.conftest import make_ground


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    require(*PROGRAMS, "unshare")
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "ground").mkdir()
    make_ground(folder / "ground")
    (folder / "environment").write_text(ENVIRONMENT)
    with slurm_cluster() as slurm:
        yield Submissions(slurm, folder)


@pytest.fixture(scope="module")
def limited(cluster) -> tuple[Path, str]:
    """A job of one minute whose ranks are stopped until Slurm signals that the minute is nearly over."""
    run, job = cluster.submit("limited", *ONE_NODE, "--sbatch=--nodelist=n2", "--time", "1", "--signal-seconds", "30")
    ranks.wait_for_step(run, 2 * SAVED)
    for pid in cluster.ranks_of(job):
        os.kill(pid, signal.SIGSTOP)  # Slurm sends SIGCONT with its signal
    return run, job


@pytest.fixture(scope="module")
def straight(cluster, limited) -> Path:
    """An undisturbed run on both nodes, after a preflight."""
    run, job = cluster.submit("straight", "--nodes", "2", "--gpus-per-node", "1")
    job = cluster.slurm.ended(job)
    assert job["Restarts"] == "0", job
    return run


@pytest.fixture(scope="module")
def orphaned(cluster, straight) -> tuple[Path, str]:
    """A job on two nodes, one of which has died: its slurmd, its steps, its rank."""
    run, job = cluster.submit("orphaned", "--nodes", "2", "--gpus-per-node", "1", "--no-preflight")
    ranks.wait_for_step(run, 2 * SAVED)
    fail_node("n1")
    return run, job


def test_a_job_on_two_nodes_checks_its_ranks_and_trains_and_status_reports_it(cluster, straight):
    jobs = json.loads((straight / "slurm" / "jobs.json").read_text())
    text = (straight / "slurm" / f"train-{jobs['train']}.out").read_text()
    assert "2 ranks on " in text and "nothing would stop this training" in text
    assert "slurm: start 1 on n[1-2]: from the beginning" in text and f"slurm: finished at step {STEPS}" in text
    status = json.loads(cluster.asr("status", str(straight), "--json"))
    assert status["train"]["step"] == status["checkpoint"] == STEPS and status["jobs"][0]["state"] == "COMPLETED"
    assert f"finished at step {STEPS}" in cluster.asr("status", str(straight))


def test_a_job_resumes_by_itself_after_kill_9_and_after_cancel_when_submitted_again(cluster, straight, orphaned):
    killed, first = cluster.submit("killed", *ONE_NODE, "--sbatch=--nodelist=n2")
    run, second = cluster.submit("cancelled", *ONE_NODE, "--sbatch=--nodelist=n2")
    refused = cluster.asr("submit", str(cluster.ground / "recipe.yaml"), f"run.dir={run}", check=False)
    assert f"has its train in job {second}" in refused
    ranks.wait_for_step(killed, 2 * SAVED)
    os.kill(cluster.ranks_of(first)[1], signal.SIGKILL)
    ranks.wait_for_step(run, SAVED + 10)
    assert f"job {second} was asked to save and end" in cluster.asr("cancel", str(run))
    ended = cluster.slurm.ended(second, "CANCELLED")
    step = int((run / "STOPPED").read_text().split()[0])
    assert SAVED < step < STEPS and f"cancelled as asked; saved at step {step}" in output_of(ended)
    assert "cancelled" in cluster.asr("status", str(run))
    run, again = cluster.submit("cancelled", *ONE_NODE, "--sbatch=--nodelist=n2")
    assert f"from step {step}" in output_of(cluster.slurm.ended(again))
    assert_same(run, straight)
    job = cluster.slurm.ended(first)
    assert job["Restarts"] == "1" and "and no marker: requeued" in output_of(job), output_of(job)
    assert_same(killed, straight)
    assert "is not running" in cluster.asr("cancel", str(run), check=False)


def test_a_mistake_is_not_tried_again_and_starts_that_lead_nowhere_are_given_up(cluster):
    _, first = cluster.submit("looked-at", *ONE_NODE[:-1], "model.llm=/nowhere/llm")
    _, third = cluster.submit("mistaken", *ONE_NODE, "--name=a-mistake", "optim.max_steps=8", "data.max_seconds=1")
    (cluster.folder / "poor").write_text(f"{ENVIRONMENT}ulimit -v 400000\n")  # torch cannot be imported in 400 MB
    poor = ("--env-file", str(cluster.folder / "poor"), "--give-up-after", "2")
    hopeless, second = cluster.submit("hopeless", *ONE_NODE, *poor)
    for job, why in ((first, "LLM: /nowhere/llm is no folder"), (third, "longer than data.max_seconds 1")):
        ended = cluster.slurm.ended(job, "FAILED")
        told = output_of(ended).splitlines()[-1]
        assert told.startswith("slurm: not tried again, as it is a mistake to mend: ") and why in told, output_of(ended)
        assert ended["Restarts"] == "0" and ended["ExitCode"] == "3:0"
    job = cluster.slurm.ended(second, "FAILED")
    assert job["Restarts"] == "2" and "2 starts in a row came no further than step 0: giving up" in output_of(job)
    assert "gave up at step 0 after 2 starts" in cluster.asr("status", str(hopeless))


def test_a_job_that_loses_a_node_resumes_when_there_is_one_again(cluster, straight, orphaned):
    run, job = orphaned
    cluster.slurm.wait(job, lambda job: job["Restarts"] == "1")
    cluster.slurm.start_node("n1")
    ended = cluster.slurm.ended(job)
    assert "start 2 on n[1-2]: from step " in output_of(ended)
    assert_same(run, straight)


def test_a_preempted_job_saves_in_its_grace_time_and_resumes(cluster, straight, orphaned):
    run, job = cluster.submit("preempted", *ONE_NODE, "--sbatch=--nodelist=n1")
    ranks.wait_for_step(run, SAVED + 10)
    urgent = cluster.slurm.run(
        "sbatch", "--parsable", "-p", "urgent", "-w", "n1", "--exclusive", "-o", "/dev/null", "--wrap", "true"
    )
    cluster.slurm.ended(urgent.stdout.strip())
    job = cluster.slurm.ended(job)
    assert job["Restarts"] == "1" and "by SIGUSR1: requeued" in output_of(job), output_of(job)
    assert_same(run, straight)


def test_a_job_at_its_time_limit_saves_and_resumes(cluster, straight, limited):
    run, job = limited
    job = cluster.slurm.ended(job)
    assert int(job["Restarts"]) >= 1 and "by SIGUSR1: requeued" in output_of(job), output_of(job)
    assert_same(run, straight)


def test_a_pipeline_goes_from_recordings_to_scores_and_ends_where_a_stage_fails(cluster):
    ground, out = cluster.ground, cluster.folder / "pipeline"
    rows = [json.dumps(row) + "\n" for row in utterances(ground)]
    for name, some in (("train", rows), ("dev", rows[:6])):
        (cluster.folder / f"{name}.jsonl").write_text("".join(some))
    build = [f"--build={out / name}={cluster.folder / name}.jsonl" for name in ("train", "dev")]
    encode = [f"--features={out / name}-frames={out / name}" for name in ("train", "dev")]
    common = ["--env-file", str(cluster.folder / "environment"), "--cpus-per-task=1", "--prep-cpus=1", *ONE_NODE]
    what = [
        str(ground / "recipe.yaml"),
        f"run.dir={out / 'run'}",
        f"data.train={out / 'train'}-frames",
        "optim.max_steps=4",
    ]
    said = cluster.asr("submit", "pipeline", *what, *build, *encode, f"--score={out / 'dev'}-frames", *common)
    jobs = json.loads((out / "run" / "slurm" / "jobs.json").read_text())
    assert list(jobs) == ["shards", "features", "train", "score"] and "features: job" in said
    cluster.slurm.ended(jobs["score"])
    assert len(read_index(out / "train-frames")) == len(rows) and (out / "run" / "FINISHED").exists()
    assert json.loads((out / "run" / "scores" / "dev-frames" / "score.json").read_text())["all"]["words"] > 0
    assert "6 utterances" in (out / "run" / "slurm" / f"features-{jobs['features']}_1.out").read_text()
    broken = [
        *what[:1],
        f"run.dir={out / 'broken'}",
        *what[2:],
        "--build",
        f"{out / 'x'}={cluster.folder / 'train.jsonl'}",
    ]
    (cluster.folder / "train.jsonl").write_text("no manifest\n")
    cluster.asr("submit", "pipeline", *broken, f"--score={out / 'dev'}-frames", *common)
    jobs = json.loads((out / "broken" / "slurm" / "jobs.json").read_text())
    cluster.slurm.ended(jobs["shards"], "FAILED")
    cluster.slurm.ended(jobs["score"], "CANCELLED")
    unwanted = [*what[:1], f"run.dir={out / 'unwanted'}", *what[2:], *build, *encode, f"--score={out / 'dev'}"]
    cluster.asr("submit", "pipeline", *unwanted, *common)
    said = cluster.asr("cancel", str(out / "unwanted"))
    jobs = json.loads((out / "unwanted" / "slurm" / "jobs.json").read_text())
    for stage in ("features", "train", "score"):  # two elements of the first may be running, the others wait
        assert f"{stage}: job {jobs[stage]} is cancelled" in said
        cluster.slurm.ended(jobs[stage], "CANCELLED")


def utterances(ground: Path) -> list[dict[str, str]]:
    return [
        {"audio": str(file), "text": "the cat sat on a mat", "key": file.stem}
        for file in sorted((ground / "audio").glob("*.flac"))
    ]


def test_a_job_that_would_be_pending_for_ever_is_refused(cluster):
    asked = ["--nodes", "3", *ONE_NODE]
    refused = cluster.slurm.run(
        "slam-asr",
        "submit",
        str(cluster.ground / "recipe.yaml"),
        f"run.dir={cluster.folder / 'much'}",
        *asked,
        check=False,
    )
    assert refused.returncode == 2 and "sbatch --test-only" in refused.stderr, refused.stderr
    assert not cluster.slurm.run("squeue", "-h", "-n", "much").stdout


def test_every_launcher_gives_the_same_loss_at_step_50(cluster):
    """At a low learning rate, as one rank and two add up in different orders."""
    require("mpirun")
    port, two = str(ranks.free_port()), ["2", sys.executable, "-m", "train"]
    launchers = {
        "python": [sys.executable, "-m", "train"],
        "deepspeed": ["deepspeed", "--num_accelerators", "2", "--master_port", port, "--module", "train"],
        "torchrun": ["torchrun", "--nproc_per_node", "2", "--master_port", port, "-m", "train"],
        "srun": ["srun", "-N", "2", "-n", *two],
        "mpirun": ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", *two],
    }
    same = ["optim.max_steps=50", "log.every_steps=50", "optim.lr=1e-5", "watch.every_steps=null"]
    run, job = cluster.submit("sbatch", "--nodes", "2", "--no-preflight", *same)
    cluster.slurm.ended(job)
    (wanted,) = ranks.losses(run)
    parts = (line.partition("=") for line in ENVIRONMENT.splitlines())
    environment = {name: value for name, _, value in parts}
    for name, command in launchers.items():
        run = cluster.folder / name
        cluster.slurm.run(*command, str(cluster.ground / "recipe.yaml"), f"run.dir={run}", *same, **environment)
        assert (run / "FINISHED").exists()
        assert ranks.losses(run) == pytest.approx([wanted], rel=1e-6), name
