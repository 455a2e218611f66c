"""The command `python -m train RECIPE section.key=value ...`, alone or under deepspeed, torchrun or srun."""

from train.dist import launch_env
from train.liveness import exit_status, stop

stop.install_handlers()  # before torch is imported: a signal during the imports must not kill
stop.follow_launcher()

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
import warnings  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from typing import TYPE_CHECKING, Any, NoReturn  # noqa: E402

from model.errors import UserError  # noqa: E402
from train.recipe.arguments import Parser, add_recipe  # noqa: E402

if TYPE_CHECKING:
    from train.recipe.config import Config


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 finished, 75 stopped as asked (the same command goes on), 2 a mistake (one line on stderr), 1 an
    error of ours.

    After an error its message has been printed, and the process group is still there: leave with `leave`."""
    launch_env.set_threads()
    try:
        args = read_arguments(arguments)
        from train.recipe.config import load_config
        from train.recipe.deepspeed_json import read_deepspeed_json

        config = load_config(args.recipe, args.overrides)
        deepspeed_json = read_deepspeed_json(args.deepspeed)
    except UserError as error:  # every rank reads the same: one on each host prints it
        return _refuse(error, os.environ.get("LOCAL_RANK", "0") == "0")
    from train.dist.collectives import AgreedError

    with ExitStack() as after_error:  # closed after the message: this may take its time
        try:
            return _train(config, deepspeed_json, args.allow_changes, after_error)
        except UserError as error:  # of this rank alone, unless agreed
            return _refuse(error, not isinstance(error, AgreedError) or os.environ["RANK"] == "0")
        except KeyboardInterrupt:
            return 130
        except Exception:
            traceback.print_exc()
            return 1


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; UserError, one line, for a mistake."""
    parser = Parser(prog="python -m train", description="Train the adapter of a recipe; the same command resumes.")
    add_recipe(parser)
    # The deepspeed launcher gives this one; the environment says it too.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _refuse(error: UserError, prints: bool) -> int:
    if prints:
        from data_prep.text import printable  # text quoted from a file must not steer the terminal

        print("train:", "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr, flush=True)
        exit_status.mark_permanent(error)
    return exit_status.MISTAKE


def _train(config: "Config", deepspeed_json: dict[str, Any], allow_changes: bool, after_error: ExitStack) -> int:
    """Trains, then closes the run and the process group. After an error, `after_error` closes only the run."""
    warnings.filterwarnings("ignore", module=r"torch\.|deepspeed|transformers")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    import torch

    from train.dist.collectives import join_world
    from train.loop import fit
    from train.open_run import open_run

    world = join_world()
    stop.set_local_rank(world.local_rank)
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to repeat itself
        torch.use_deterministic_algorithms(True)
    run = open_run(config, deepspeed_json, world, allow_changes)
    exit_status.accepted()

    def close() -> None:
        try:
            run.close()
        except Exception:  # the exit code is that of the first error
            traceback.print_exc()

    after_error.callback(close)
    try:
        finished = fit(run)
    except BaseException:
        run.failed()
        raise
    after_error.pop_all()
    run.close()
    world.barrier()  # a launcher kills the other ranks when one leaves with another code than 0
    torch.distributed.destroy_process_group()
    return 0 if finished else exit_status.AGAIN


def leave(code: int) -> NoReturn:
    """Ends this process without the interpreter's own end.

    A thread of gloo's that is not yet gone would now and then abort that with an exit code of 250. After an error NCCL
    may still wait for the other ranks, and the interpreter's end, which destroys the group, would wait with it
    (pytorch#141510)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
