"""`slam-asr plan`: what a recipe needs on given GPUs, from configurations alone.

planning.py runs the verb and prints; gpus.py describes the GPUs, data.py the utterances, shapes.py the models without
weights; simulation.py measures a step of those, estimate.py predicts memory and speed from it and chooses what to
start; probe.py measures the same on a GPU.

Begin with planning.py. Imports train, data_prep and model, and nothing else of launch."""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Predict what a recipe needs on given GPUs: memory in every ZeRO stage, the largest batch, hours, disk, and "
        "the command to type. No weight is read. Exit code 1 where nothing fits."
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
    add("--probe", action="store_true", help="measure steps here: memory and speed of this GPU, or this CPU's hours")


def run(args: argparse.Namespace) -> int:
    from launch.plan import planning

    return planning.run(args)
