"""`slam-asr plan`: what a recipe needs on given GPUs, from configurations alone.

planning.py   the verb: reads recipe, models and data        report.py   prints the plan
gpus.py       which GPUs          data.py     which utterances      shapes.py   models without weights
simulation.py what a step takes   estimate.py memory and speed      advice.py   what to start
probe.py      the same measured, on a GPU
"""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what a recipe needs on given GPUs: memory in every ZeRO stage, the largest batch, hours, disk, and which "
        "command to type. No weight is read. Exit code 1 where nothing fits."
    )
    add = parser.add_argument
    add("recipe", metavar="RECIPE", type=Path, help="YAML file")
    add("overrides", nargs="*", default=[], metavar="section.key=value", help="values that replace the recipe's")
    add("--gpus", metavar="8x80GB", help="of one node: count x memory, or count x kind (4xh100)")
    add("--nodes", type=int, default=1, metavar="N", help="nodes of that kind (default: 1)")
    add("--gpu-type", metavar="KIND", help="a100, h100, h200, l40s ... (default: by memory)")
    add("--utilisation", type=float, default=0.4, metavar="SHARE", help="of the GPUs' peak, assumed (default: 0.4)")
    add("--hours", type=float, metavar="H", help="of audio, where data.train is not there yet (default: 960)")
    add("--json", action="store_true", help="print one JSON object")
    add("--probe", action="store_true", help="measure memory and speed on this GPU, beside what is predicted")


def run(args: argparse.Namespace) -> int:
    from launch.plan import planning

    return planning.probe(args) if args.probe else planning.plan(args)
