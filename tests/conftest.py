"""What every test runs under: no network, the CPU, and few threads, so that ranks beside each other stay fast."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent
SLOW = """
test_demo test_newcomer test_readme test_soak test_real_pair test_real_speech
bench/test_bench bench/test_gpu_first
data_prep/features/test_feature_command data_prep/remote/test_objects data_prep/shards/test_cache
data_prep/build/test_build data_prep/test_audit data_prep/test_fuzz
decode/test_dataset decode/test_generate decode/test_prefix decode/vllm/test_served
launch/scoring/test_decoded launch/test_doctor launch/test_fetch launch/test_launch_verbs
launch/test_plan_simulation launch/test_plan_verb
model/test_encoders model/test_hub
train/dist/test_device train/liveness/test_stop train/liveness/test_watchdog
train/report/test_prometheus train/report/test_speed train/report/test_trackers
train/test_adapters train/test_auto train/test_damage train/test_faults train/test_feature_cache
train/test_launcher_faults train/test_lora train/test_main train/test_not_finite train/test_open_run
train/test_run_folder train/test_training train/test_warm_start
test_pairs
""".split()
"""Files whose tests train, or start processes, for more than four seconds: `make quick` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(ROOT).with_suffix("").as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def default_signals() -> Iterator[None]:
    """SIGTERM and SIGINT as in a new process; a training in this process may have left handlers of its own."""
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a size, such as 64k; where mounting is not allowed the test is skipped (others limit
    files instead)."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(folder)]
        if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)
