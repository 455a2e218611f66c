"""`slam-asr export SOURCE OUT`: the adapter as two files to share."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copy adapter.safetensors and adapter.json out of a run or checkpoint, verified before and after. The encoder "
        "and the LLM are not copied: adapter.json names them, with the sha256 of their weights."
    )
    source = "run (its best checkpoint, else its newest), checkpoint or export folder"
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("out", metavar="OUT", help="new folder for the two files")


def run(args: argparse.Namespace) -> int:
    from decode.export import export

    card = export(args.source, args.out)
    print(f"{args.out}: adapter of step {card.step} for {card.encoder_source} and {card.llm_source}")
    return 0
