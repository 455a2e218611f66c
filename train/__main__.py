"""The door: `python -m train RECIPE section.key=value ...`, alone or under deepspeed, torchrun or srun."""

from train import lifeline, refusal, stop, threads

stop.install_handlers()  # before torch is imported: a signal during the imports must not kill
lifeline.follow_launcher()

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from model.errors import UserError  # noqa: E402

if TYPE_CHECKING:
    from train.config import Config


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 finished or stopped as asked, 2 a person's mistake (one line on stderr)."""
    args = _parser().parse_intermixed_args(arguments)
    threads.set_threads()  # before torch is imported
    try:
        recipe = _read(args)
    except UserError as error:  # every rank reads the same: one on each host says it
        return _refuse(error, os.environ.get("LOCAL_RANK", "0") == "0")
    from train.world import AgreedError

    try:
        return _train(*recipe, args.allow_changes)
    except AgreedError as error:
        return _refuse(error, os.environ["RANK"] == "0")
    except UserError as error:  # of this rank alone
        return _refuse(error, True)
    except KeyboardInterrupt:
        return 130


def _refuse(error: UserError, says: bool) -> int:
    if says:
        from data_prep.text import printable  # what a file made us quote must not steer the terminal

        print("train:", "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr, flush=True)
        refusal.tell(error)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train", description="Train the adapter of a recipe; the same command resumes."
    )
    parser.add_argument("recipe", type=Path, help="YAML file, such as recipes/librispeech_tinyllama.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument(
        "--deepspeed", default="zero0", metavar="JSON", help="a file, or a name in ds_configs/ (default: zero0)"
    )
    parser.add_argument(
        "--allow-changes", action="store_true", help="go on with a run although its recipe or data have changed"
    )
    # The deepspeed launcher gives this one; the environment says it too.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    return parser


def _read(args: argparse.Namespace) -> tuple["Config", dict[str, Any]]:
    """The recipe and the DeepSpeed JSON, checked."""
    from train.config import load_config
    from train.deepspeed_json import find_deepspeed_json, read_deepspeed_json

    return load_config(args.recipe, args.overrides), read_deepspeed_json(find_deepspeed_json(args.deepspeed))


def _train(config: "Config", deepspeed_json: dict[str, Any], allow_changes: bool) -> int:
    warnings.filterwarnings("ignore", module=r"torch\.|deepspeed|transformers")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    import torch

    from train.loop import fit
    from train.open_run import open_run
    from train.world import join_world

    world = join_world()
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to repeat itself
        torch.use_deterministic_algorithms(True)
    try:
        run = open_run(config, deepspeed_json, world, allow_changes)
        refusal.under_way()
        try:
            fit(run)
        finally:
            run.close()
        world.barrier()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # All is closed. A thread of gloo's that is not yet gone would now and then abort the interpreter's own end, and an
    # exit code of 250 after the last step is no use to anybody.
    os._exit(code)
