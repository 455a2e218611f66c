"""`slam-asr prep`: everything between a corpus and the shards that training reads. One file a verb, each with

configure(parser: argparse.ArgumentParser) -> None    its arguments
run(args: argparse.Namespace) -> int                  its work; the exit code
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from train.recipe.arguments import Parser

VERBS = {  # verb: one line; its module is launch.prep.VERB, but import's, which is a word of the language
    "synth": "make a corpus of synthetic speech",
    "import": "turn a corpus into an utterance manifest",
    "build": "turn a corpus or a manifest into shards",
    "index": "index existing webdataset tars in place",
    "features": "run the encoder once over shards and keep its frames",
    "check": "audit a shard directory: read every byte, name what is wrong and what to look at",
    "stats": "hours, utterances and lengths of a shard directory",
    "merge": "make one shard directory of several",
    "reshard": "write finished shards in other sizes, in another order, or in part",
    "export": "write shards as a dataset of another toolkit (NeMo, Kaldi, WeNet, SLAM-LLM)",
    "sample": "write a few utterances to listen to, and a page that plays them",
    "publish": "copy a finished shard directory to object storage",
}
MODULES = {"import": "launch.prep.importing"}


class _Verb(Parser):
    """A verb whose arguments are asked of its module once it is the one that was typed."""

    verb: str

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        module(self.verb).configure(self)
        return super().parse_known_args(args, namespace)


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="prep", required=True, metavar="VERB", parser_class=_Verb)
    for name, what in VERBS.items():
        verbs.add_parser(name, help=what, description=what).verb = name


def run(args: argparse.Namespace) -> int:
    code = module(args.prep).run(args)
    from data_prep.retries import say_retries

    say_retries()
    return code


def module(verb: str):
    return importlib.import_module(MODULES.get(verb, f"launch.prep.{verb}"))
