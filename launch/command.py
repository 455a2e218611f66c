"""The `slam-asr` command: finds the verb, imports that verb's module alone, runs it, and gives its exit code.

A verb is a module of this folder with two functions, and nothing heavy at its top, so that help answers at once:

    configure(parser: argparse.ArgumentParser) -> None    its arguments
    run(args: argparse.Namespace) -> int                  its work; the exit code

Exit codes: 0 done; 1 a check failed, or a bug (with its traceback); 2 a mistake that the user can correct (one line on
stderr); 130 stopped with Ctrl-C, or SIGTERM where it is caught; 141 the reader of the output closed the pipe."""

import argparse
import importlib
import io
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from model.errors import UserError, closest
from train.dist.launch_env import set_threads
from train.recipe.arguments import Parser

VERBS = {  # verb: (module, one line)
    "run": ("launch.run", "from a corpus to a word error rate on this host: every stage, resumable"),
    "recipe": ("launch.recipes", "write a commented recipe for given data and models, or its JSON schema"),
    "prep": ("launch.prep", "import, build, encode and check the data that training reads"),
    "transcribe": ("launch.transcribing", "transcribe recordings with an adapter"),
    "serve": ("launch.serving", "answer OpenAI's transcription requests over HTTP, with a page to try it"),
    "score": ("launch.scoring", "measure the word error rate of an adapter, or of hypotheses"),
    "export": ("launch.export", "copy the adapter, and LoRA, out of a run, as files to share"),
    "push": ("launch.push", "upload an export to the Hugging Face hub, private unless told otherwise"),
    "import": ("launch.importing", "take over an adapter that SLAM-LLM or slam_asr_pytorch trained"),
    "plan": ("launch.plan", "predict what a recipe needs on given GPUs: memory, tokens, hours, disk"),
    "fetch": ("launch.fetch", "download a small real encoder and LLM as Hugging Face folders"),
    "doctor": ("launch.doctor", "check on every rank, before training, for what would stop it"),
    "launch": ("launch.deepspeed", "train on this host, or on the hosts of a hostfile, by the deepspeed launcher"),
    "submit": ("launch.slurm.submit", "train under Slurm: requeued and resumed as long as it makes progress"),
    "status": ("launch.slurm.status", "show how far a run is, and the state of its Slurm job"),
    "cancel": ("launch.slurm.cancel", "ask a run to save and end"),
}
COMPUTING = ("transcribe", "serve", "score")  # in this process
TRAINING = """\
training is started by python or by a launcher; all give the same run:
  python -m train RECIPE.yaml [section.key=value ...]
  deepspeed --num_accelerators 2 --module train RECIPE.yaml [section.key=value ...]
  torchrun --nproc_per_node 2 -m train RECIPE.yaml [section.key=value ...]"""
DONE, MISTAKE, INTERRUPTED, BROKEN_PIPE = 0, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, by default the process's own; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks, as stderr writes it
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # a reader that went away is noticed here, not at the interpreter's exit
        return code
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("slam-asr: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        if not _reader_went_away():
            raise  # another pipe broke: a bug
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is quiet too
        return BROKEN_PIPE
    except OSError as error:
        from data_prep.durable import FULL

        if error.errno not in FULL:
            if error.filename is None:
                raise  # no file to name
            return _refuse(f"cannot use {error.filename}: {error.strerror}; look at its rights and disk")
        if error.filename is None:
            with suppress(OSError):  # standard output may be no file
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails as well
        written = error.filename or "standard output"
        return _refuse(f"cannot write {written}: {error.strerror}; make room, or write to another disk")


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """In the block SIGTERM does what Ctrl-C does, so that temporary files go and the command says that it stopped."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _refuse(why: str) -> int:
    """Prints the message on stderr, without control characters that a quoted file name may hold."""
    from data_prep.text import printable

    print("slam-asr:", "\n".join(map(printable, why.split("\n"))), file=sys.stderr)
    return MISTAKE


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        return _without_verb(arguments)
    verb, *rest = arguments
    if verb not in VERBS:
        near = closest(verb, VERBS)
        hint = f'did you mean "slam-asr {near}"?' if near else f"the verbs are {', '.join(VERBS)}"
        raise UserError(TRAINING if verb == "train" else f'unknown verb "{verb}", {hint}')
    if verb in COMPUTING:
        set_threads()  # before torch is imported
    module_name, summary = VERBS[verb]
    module = importlib.import_module(module_name)
    parser = Parser(prog=f"slam-asr {verb}", description=summary[0].upper() + summary[1:] + ".")
    module.configure(parser)
    return module.run(parser.parse_args(rest))


def _without_verb(arguments: Sequence[str]) -> int:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {summary}" for verb, (_, summary) in VERBS.items())
    parser = Parser(
        prog="slam-asr",
        usage="slam-asr VERB ...",
        description="Speech recognition by a small adapter between a frozen speech encoder and a frozen LLM.",
        epilog=f"verbs (slam-asr VERB --help says more):\n{verbs}\n\n{TRAINING}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    if parser.parse_args(arguments).version:
        from importlib.metadata import version

        print(f"slam-asr {version('slam-asr')}")
        return DONE
    parser.print_help(sys.stderr)
    return MISTAKE


def _reader_went_away() -> bool:
    """Whether nobody reads our standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # POLLERR is always reported
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
