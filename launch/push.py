"""`slam-asr push FOLDER REPO_ID`: uploads an export to the Hugging Face hub."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Upload a folder that slam-asr export wrote, whole and with nothing else in it, to a model repository of the "
        "Hugging Face hub, in one commit. The token is that of HF_TOKEN or `hf auth login`."
    )
    parser.add_argument("folder", metavar="FOLDER", help="export folder, of any format")
    parser.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME; made, private, if it is not there")
    public = "make it public, or upload to one that is public (default: refuse)"
    parser.add_argument("--public", action="store_true", help=public)


def run(args: argparse.Namespace) -> int:
    from decode.export.push import push

    print(f"{args.folder}: uploaded to {push(args.folder, args.repo_id, args.public)}")
    return 0
