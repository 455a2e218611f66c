"""`slam-asr prep`: everything between a corpus and the shards that training reads.

A verb is two functions of its module: configure_VERB(parser) adds its arguments, run_VERB(args) does its work and
returns the exit code.

Begin with shards.py. A new verb needs a line in VERBS. Imports train, data_prep and model, and nothing else of
launch."""

import argparse
import importlib
from typing import Any

from train.recipe.arguments import Parser

VERBS = {  # verb: (module of launch.prep, one line)
    "synth": ("corpus", "make a corpus of synthetic speech, or of sounds without speech"),
    "import": ("corpus", "turn a corpus into an utterance manifest"),
    "build": ("shards", "turn a corpus or a manifest into shards"),
    "index": ("shards", "index existing webdataset tars in place"),
    "features": ("features", "run the encoder once over shards and keep its frames"),
    "check": ("reading", "audit a shard directory: read every byte, name what is wrong and what to look at"),
    "stats": ("reading", "hours, utterances and lengths of a shard directory"),
    "merge": ("shards", "make one shard directory of several"),
    "reshard": ("shards", "write finished shards in other sizes, in another order, or in part"),
    "export": ("reading", "write shards as a dataset of another toolkit (NeMo, Kaldi, WeNet, SLAM-LLM)"),
    "sample": ("reading", "write a few utterances to listen to, and a page that plays them"),
    "publish": ("reading", "copy a finished shard directory to object storage"),
}


class _VerbParser(Parser):
    """Imports the module of a verb only where that verb was typed."""

    verb: str

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        call("configure", self.verb, self)
        return super().parse_known_args(args, namespace)


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="prep", required=True, metavar="VERB", parser_class=_VerbParser)
    for name, (_, summary) in VERBS.items():
        verbs.add_parser(name, help=summary, description=summary).verb = name


def run(args: argparse.Namespace) -> int:
    code = call("run", args.prep, args)
    from data_prep.retries import say_retries

    say_retries()
    return code


def call(action: str, verb: str, argument: Any) -> Any:
    """Calls configure_VERB(parser) or run_VERB(args)."""
    module = importlib.import_module(f"launch.prep.{VERBS[verb][0]}")
    return getattr(module, f"{action}_{verb}")(argument)
