"""`slam-asr doctor`: checks, on every rank, for what would stop a training or make it wrong or slow.
Begin with checks.py, which calls every check; add one in host.py, gpus.py or rendezvous.py, returning a CheckResult.
Checks that training makes too are in train/preflight.py. May import launch.deepspeed, train, data_prep and model."""

import argparse
import os
from pathlib import Path

RANKS = """\
on all ranks of a job, by the launcher that will start the training:
  srun python -m launch doctor RECIPE
  torchrun --nproc_per_node 8 -m launch doctor RECIPE
  deepspeed --num_accelerators 8 --module launch doctor RECIPE"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = RANKS
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument("--allow-changes", action="store_true", help="as the training will be started with it")
    parser.add_argument("--hostfile", type=Path, metavar="FILE", help="reach each host of it by ssh, as pdsh will")


def run(args: argparse.Namespace) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"  # what is not on this host is reported, not fetched
    from launch.doctor import checks

    return checks.run(args)
