"""Environments as the launchers really set them, and what goes wrong with them on clusters."""

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from model.errors import UserError
from train.dist.collectives import gpu_number, require_no_gpu_promised, require_own_gpu
from train.dist.launch_env import RankEnv, first_host, read_rank_env, require_master

# Slurm 22.05, two nodes of two tasks, as seen in a task and in the batch script.
BATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "gpu[003-004]",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "2(x2)",
}
TASK = BATCH | {
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "1335885825",
}
SKY = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
SKY |= {"SKYPILOT_NUM_GPUS_PER_NODE": "1", "SKYPILOT_TASK_ID": "sky-2026-1"}
MASTER = {"MASTER_ADDR": "gpu003", "MASTER_PORT": "12345"}
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "TORCHELASTIC_RUN_ID": "x",
} | MASTER
DEEPSPEED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_SIZE": "1"} | MASTER
HAND = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    "env, rank, size, local_rank, local_size, launcher, addr",
    [
        ({}, 0, 1, 0, 1, "", ""),
        (TASK, 3, 4, 1, 2, "srun", "gpu003"),
        (TASK | {"MASTER_ADDR": "10.1.1.1"}, 3, 4, 1, 2, "srun", "10.1.1.1"),
        (TASK | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"}
         | {"SLURM_STEP_TASKS_PER_NODE": "1"}, 0, 1, 0, 1, "srun", "gpu003"),
        (BATCH | {"SLURM_NTASKS": "1"}, 0, 1, 0, 1, "", ""),
        (MPIRUN | MASTER, 1, 4, 1, 2, "mpirun", "gpu003"),
        (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "2"}, 1, 2, 1, 2, "mpirun", "127.0.0.1"),
        (TASK | MPIRUN | MASTER, 1, 4, 1, 2, "mpirun", "gpu003"),  # mpirun's daemons are Slurm tasks
        (SKY, 1, 2, 0, 1, "skypilot", "10.0.0.1"),
        (TORCHRUN, 5, 8, 1, 4, "torchrun", "gpu003"),
        (SKY | {"SKYPILOT_NUM_GPUS_PER_NODE": "4"} | TORCHRUN, 5, 8, 1, 4, "torchrun", "gpu003"),
        (TASK | DEEPSPEED, 1, 2, 1, 2, "deepspeed", "gpu003"),  # srun deepspeed --no_ssh: the inner one counts
        (BATCH | DEEPSPEED, 1, 2, 1, 2, "deepspeed", "gpu003"),
        (TASK | HAND, 3, 4, 1, 2, "hand", "gpu003"),  # export RANK=$SLURM_PROCID ...
    ],
)  # fmt: skip
def test_every_launcher_is_understood(env, rank, size, local_rank, local_size, launcher, addr):
    place = read_rank_env(env)
    assert (place.rank, place.size, place.local_rank, place.local_size) == (rank, size, local_rank, local_size)
    assert (place.launcher, place.master_addr) == (launcher, addr)
    require_master(place)


@pytest.mark.parametrize(
    "env, said",
    [
        (BATCH, "SLURM_NTASKS=4 tasks, not one of them; put srun in front"),
        (TASK | HAND | {"RANK": "0"}, "RANK=0 of WORLD_SIZE=4 contradicts srun, by which this is rank 3 of 4"),
        (TASK | HAND | {"WORLD_SIZE": "8"}, "RANK=3 of WORLD_SIZE=8 contradicts srun"),
        (MPIRUN | HAND, "contradicts mpirun, by which this is rank 1 of 4"),
        ({"WORLD_SIZE": "8"}, "WORLD_SIZE=8, but RANK is not set"),
        ({"RANK": "1"}, "RANK is set but WORLD_SIZE, LOCAL_RANK is not"),
        (TASK | {"SLURM_PROCID": "4"}, "SLURM_PROCID=4, of 4 ranks"),
        (TASK | {"SLURM_LOCALID": "2"}, "SLURM_LOCALID=2, of 2 ranks on this host"),
        (TASK | {"SLURM_STEP_NUM_TASKS": "four"}, "SLURM_STEP_NUM_TASKS=four is no number"),
        (TASK | {"SLURM_NODEID": "2"}, "SLURM_NODEID=2 is not among the 2 nodes"),
        (TASK | {"SLURM_STEP_TASKS_PER_NODE": "2x2"}, "SLURM_STEP_TASKS_PER_NODE=2x2 is not of the form"),
        (TORCHRUN | {"LOCAL_RANK": "4"}, "LOCAL_RANK=4, of 4 ranks on this host"),
        (TORCHRUN | {"MASTER_PORT": "http"}, "MASTER_PORT=http is no port"),
        (SKY | {"SKYPILOT_NUM_GPUS_PER_NODE": "8"}, "torchrun --nnodes 2 --node_rank 1 --nproc_per_node 8"),
    ],
)
def test_what_contradicts_itself_or_leaves_the_rank_open_is_refused_by_name(env, said):
    with pytest.raises(UserError) as refused:
        read_rank_env(env)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("env", [MPIRUN, HAND, MPIRUN | {"MASTER_ADDR": "gpu003", "PMIX_NAMESPACE": ""}])
def test_ranks_that_do_not_know_where_to_meet_are_refused(env):
    with pytest.raises(UserError, match=r"MASTER_(ADDR|PORT) is not set for rank"):
        require_master(read_rank_env(env))


def test_the_ranks_of_a_job_choose_one_port_and_its_next_life_another():
    ports = [read_rank_env(TASK | {"SLURM_PROCID": rank, "SLURM_RESTART_COUNT": life}).master_port
             for rank, life in (("0", "0"), ("3", "0"), ("3", "1"))]  # fmt: skip
    assert ports[0] == ports[1] != ports[2] and all(20_000 <= int(port) < 32_000 for port in ports)
    assert read_rank_env(TASK | {"SLURM_STEP_ID": "1"}).master_port != ports[0]


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("gpu[003-007,012],cpu1", "gpu003"),
        ("login,n[1-2]", "login"),
        ("r[1-2]n[07,9]x", "r1n07x"),
        ("", ""),
        ("a", "a"),
    ],
)
def test_the_first_host_of_a_list_is_where_rank_0_is(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    "place, visible, number",
    [
        (RankEnv(3, 4, 1, 2, "srun"), 2, 1),  # --gpus-per-node
        (RankEnv(3, 4, 1, 2, "srun"), 1, 0),  # --gpus-per-task=1: each task sees its own as number 0
        (RankEnv(11, 16, 3, 4, "srun"), 2, 0),  # --gpus-per-task=2
        (RankEnv(5, 8, 1, 4, "torchrun"), 8, 1),
        (RankEnv(9, 16, 1, 16, "hand"), 8, 1),
    ],
)
def test_a_rank_takes_the_gpu_that_is_its_own(place, visible, number):
    assert gpu_number(place, visible) == number


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed", "hand"])
def test_more_ranks_than_gpus_are_refused(launcher):
    with pytest.raises(UserError, match="shows it 2 GPUs; start fewer ranks a host"):
        gpu_number(RankEnv(2, 4, 2, 4, launcher), 2)


def test_two_ranks_of_a_host_that_have_one_gpu_are_named():
    store = HashStore()
    require_own_gpu(store, 0, "GPU-a")
    require_own_gpu(store, 1, "GPU-b")
    require_own_gpu(store, 1, "GPU-b")
    with pytest.raises(UserError, match=r"ranks 1 and 2 on \S+ have the same GPU \(GPU-b\)"):
        require_own_gpu(store, 2, "GPU-b")


def test_gpus_that_are_promised_and_not_there_are_not_replaced_by_the_cpu(tmp_path):
    require_no_gpu_promised({"SLURM_GPUS_ON_NODE": "0", "CUDA_VISIBLE_DEVICES": "0"}, tmp_path)
    with pytest.raises(UserError, match="SLURM_GPUS_ON_NODE=8 promises GPUs on .*, and torch finds none"):
        require_no_gpu_promised({"SLURM_GPUS_ON_NODE": "8"}, tmp_path)
    (tmp_path / "nvidia0").touch()
    with pytest.raises(UserError, match="nvidia0 promises GPUs"):
        require_no_gpu_promised({}, tmp_path)
