"""What ranks do with their GPUs, on a host without one: torch.cuda is asked for names and numbers, and gives these."""

import importlib
import inspect
import os
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from launch.prep import features
from model.loading import choose_dtype
from tests import ranks
from train.dist.collectives import join_world
from train.dist.launch_env import RankEnv
from train.liveness import stop

ALONE = {  # rank 3 of 8 on one host under srun --gpus-per-task=1
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "8",
    "SLURM_STEP_NODELIST": "gpu1",
}
MPIRUN = {f"OMPI_COMM_WORLD_{name}": value for name, value in
          {"RANK": "3", "SIZE": "8", "LOCAL_RANK": "3", "LOCAL_SIZE": "8"}.items()}  # fmt: skip
OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def gpus(monkeypatch):
    """Has torch show so many GPUs to this process, launched with these variables."""

    def show(count: int, env: dict[str, str]) -> None:
        for name in OURS:
            monkeypatch.setenv(name, "to be put back")
            monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("DS_ACCELERATOR", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(stop, "_local_rank", None)

    return show


@pytest.mark.parametrize(
    ("visible", "env", "number"),
    [(1, ALONE, 0), (8, ALONE, 3), (8, MPIRUN | {"MASTER_PORT": "20000"}, 3)],
    ids=["--gpus-per-task", "--gpus-per-node", "mpirun"],
)
def test_deepspeed_is_told_the_gpu_that_the_rank_drives(gpus, monkeypatch, visible, env, number):
    gpus(visible, env)
    world = join_world()
    assert world.device == torch.device("cuda", number) and world.local_rank == 3
    assert os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "3") == "3"

    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
    from deepspeed.runtime import engine

    comm = importlib.import_module("deepspeed.comm.torch")
    joined = {}
    monkeypatch.setattr(comm, "get_accelerator", CUDA_Accelerator)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    pattern = torch.distributed.init_process_group

    def init_process_group(backend, timeout=None, device_id=None, **options):
        joined[backend] = device_id

    init_process_group.__signature__ = inspect.signature(pattern)
    monkeypatch.setattr(torch.distributed, "init_process_group", init_process_group)
    comm.TorchBackend.__new__(comm.TorchBackend).init_process_group("nccl", None, None, 3, 8)
    assert joined["nccl"] == world.device

    monkeypatch.setattr(engine, "get_accelerator", CUDA_Accelerator)
    monkeypatch.setattr(engine, "dist", SimpleNamespace(get_world_size=lambda: 8, get_rank=lambda: 3))
    driven: Any = SimpleNamespace()
    engine.DeepSpeedEngine._configure_with_arguments(driven, None, None)
    engine.DeepSpeedEngine._set_distributed_vars(driven, None)
    assert driven.device == world.device


def test_of_the_ranks_that_see_one_gpu_each_the_first_alone_says_that_it_stops(gpus, monkeypatch, capfd):
    monkeypatch.setattr(stop, "_asked_at", 0.0)
    monkeypatch.setattr(stop, "_reason", "")
    gpus(1, ALONE)
    stop.set_local_rank(join_world().local_rank)
    stop.ask("SIGTERM")
    assert os.environ["LOCAL_RANK"] == "0" and stop.asked() and capfd.readouterr().err == ""


def test_features_are_made_on_the_gpu_that_training_would_take(gpus, monkeypatch):
    chosen = []

    def load(*given: Any) -> Any:
        chosen.append(given[3])
        return SimpleNamespace(dtype_note="")

    monkeypatch.setattr("model.encoders.load_encoder", load)
    options = {"device": "auto", "encoder": "E", "layer": None, "dtype": "auto", "trust_remote_code": False}
    given: Any = SimpleNamespace(**options, window=None)
    for visible, place in ((1, RankEnv(3, 8, 3, 8, "srun")), (8, RankEnv(3, 8, 3, 8, "torchrun")), (2, RankEnv())):
        gpus(visible, {})
        features._encoder(given, place)
    assert chosen == ["cuda:0", "cuda:3", "cuda:0"]


def test_bfloat16_is_chosen_where_the_gpu_computes_it_and_not_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    for major, dtype in ((7, torch.float32), (8, torch.bfloat16)):  # V100 and T4 are 7.x
        properties = SimpleNamespace(major=major)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, properties=properties: properties)
        assert choose_dtype("auto", "cuda") == dtype


def told_of_synchronisation(rank: int) -> None:
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    CPU_Accelerator.synchronize = lambda self, device_index=None: print("the host waits for the device")


def test_deepspeed_does_not_wait_for_the_device_to_time_it(ground, tmp_path):
    """Its throughput timer, on by default, waits twice a micro-batch from the third step on."""
    arguments = [str(ground / "recipe.yaml"), f"run.dir={tmp_path / 'run'}", "optim.max_steps=4"]
    said = ranks.train(arguments, 1, tmp_path / "log", before=told_of_synchronisation)
    assert said.count("the host waits for the device") == 0


class PretendedGpus:
    """Each rank is on cuda:0, of these UUIDs; where NCCL would start, all ranks say so and leave with 5, together."""

    def __init__(self, folder: Path, *uuids: str) -> None:
        self.folder, self.uuids = folder, uuids

    def __call__(self, rank: int) -> None:
        import deepspeed

        from train.dist import collectives as world

        world.rank_device = lambda place: torch.device("cuda", 0)
        torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid=self.uuids[rank])
        deepspeed.init_distributed = partial(self.start_nccl, rank)

    def start_nccl(self, rank: int, backend: str, **options) -> None:
        print(f"{backend} starts", flush=True)
        (self.folder / f"started-{rank}").touch()
        while len(list(self.folder.glob("started-*"))) < len(self.uuids):
            time.sleep(0.01)
        os._exit(5)


@pytest.mark.parametrize(
    ("uuids", "code"), [(("GPU-a", "GPU-b", "GPU-b"), 2), (("GPU-a", "GPU-b", "GPU-c"), 5)], ids=["one twice", "own"]
)
def test_ranks_that_share_a_gpu_are_named_before_nccl_starts(ground, tmp_path, uuids, code):
    arguments = [str(ground / "recipe.yaml"), f"run.dir={tmp_path / 'run'}"]
    said = ranks.train(arguments, 3, tmp_path / "log", code, before=PretendedGpus(tmp_path, *uuids))
    assert said.count("nccl starts") == (3 if code == 5 else 0), said
    shared = [line for line in said.splitlines() if line.startswith("train: ") and "GPU-b" in line]
    assert len(shared) == (code == 2) and all(
        "ranks 1 and 2 on" in line or "ranks 2 and 1 on" in line for line in shared
    )
