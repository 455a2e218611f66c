"""`slam-asr run`: from a corpus to a word error rate on this host, stage after stage.

request.py checks the arguments and keeps run.json, stages.py gives the commands of each stage, verb.py runs them.

DIR gets run.json, manifests/, shards/, features/, recipe.yaml, train/ (the run), scores/ and summary.json. Each command
is printed as a person would type it, and given again it continues or finds its output there. So `slam-asr run` killed
at any point and given again ends with the same figures.

Begin with stages.py. May import launch.stages, score, prep, recipes and deepspeed, and what they may."""

import argparse

from launch.prep.arguments import local_folder

EPILOG = """\
Without --dev, a tenth of the corpus (a fiftieth of more than 10,000 utterances) is set apart to evaluate on: whole
speakers where at least three are named, so that its voices are unseen; else single utterances. Frames of the encoder
are cached (--features auto) where the run has more than one epoch, nothing in augment needs audio, and they take at
most 100 GB and half of what is free. Exit codes: 0 done; 75 the training stopped as asked, and the same command goes
on; 2 a mistake; else that of the stage that failed."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} CORPUS --encoder ID --llm ID --out DIR [section.key=value ...] [options]"
    parser.description = (
        "From a corpus to a word error rate on this host: import, build, features, recipe, train, score. Every stage "
        "is a command of its own, printed and run; stopped or killed at any point, the same command goes on."
    )
    parser.epilog = EPILOG
    add = parser.add_argument
    add("corpus", metavar="CORPUS", help="to train on: a folder, a manifest, a table (see `prep import --help`)")
    add("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    add("--encoder", metavar="ID", help="speech encoder, Hugging Face id or folder (default: the recipe's)")
    add("--llm", metavar="ID", help="LLM, Hugging Face id or folder (default: the recipe's)")
    add("--out", type=local_folder, required=True, metavar="DIR", help="where everything goes; new, or of such a run")
    add("--dev", metavar="CORPUS", help="to evaluate on during training (default: a part of CORPUS)")
    add("--test", action="append", default=[], metavar="CORPUS", help="to score at the end (default: dev); repeatable")
    add("--ranks", type=int, metavar="N", help="processes that train (default: one a GPU; one without)")
    add("--recipe", metavar="FILE", help="train by it (default: one written as `slam-asr recipe new` does)")
    cached = "cache the encoder's frames; auto: where it pays (auto)"
    add("--features", choices=("auto", "yes", "no"), default="auto", help=cached)
    add("--importer", metavar="NAME", help="of all corpora, one of `prep import` (default: by what each is)")
    example = 'of `prep build`, as --build-options="--lowercase --column text=sentence"'
    add("--build-options", default="", metavar="OPTIONS", help=example)
    add("--allow-changes", action="store_true", help="go on with the training although its recipe has changed")
    add("--dry-run", action="store_true", help="print the commands, and run none")


def run(args: argparse.Namespace) -> int:
    from launch.run.verb import carry_out

    return carry_out(args)
