"""`slam-asr export SOURCE OUT`: copies the adapter, and LoRA, as files to share."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copy adapter.safetensors, adapter.json and, if trained with LoRA, lora.safetensors out of a run or "
        "checkpoint, verified before and after, and write a README.md about them. The encoder and the LLM are not "
        "copied: adapter.json names them, with the sha256 of their weights."
    )
    source = "run (its best checkpoint, else its newest), checkpoint or export folder"
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("out", metavar="OUT", help="new folder for the files")
    dtype = "float32 or float16 for the files, half the size (default: float32); loaded as float32 either way"
    parser.add_argument("--dtype", default="float32", help=dtype)
    score = "result of `slam-asr score --out`, for the same weights: README.md states its WER"
    parser.add_argument("--score", metavar="DIR", help=score)
    merged = "also merge LoRA into the LLM and write it to this new folder; OUT is then the adapter for that LLM"
    parser.add_argument("--merge", metavar="DIR", help=merged)
    parser.add_argument("--llm", metavar="ID", help="with --merge: where the LLM is (default: as in adapter.json)")
    code = "with --merge: run Python code that comes with the LLM (default: refuse)"
    parser.add_argument("--trust-remote-code", action="store_true", help=code)


def run(args: argparse.Namespace) -> int:
    from decode.export.adapter import export, export_merged
    from model.errors import UserError

    if args.merge is not None and (args.dtype != "float32" or args.score):
        raise UserError("--dtype and --score are for an export without --merge; export OUT once more with them")
    if args.merge is None and (args.llm or args.trust_remote_code):
        raise UserError("--llm and --trust-remote-code are for the LLM of --merge; give --merge DIR, or neither")
    if args.merge is None:
        card = export(args.source, args.out, args.dtype, args.score)
    else:
        card, line = export_merged(args.source, args.out, args.merge, args.llm, args.trust_remote_code)
        print(f"{args.merge}: {line}")
    what = "adapter and LoRA" if card.lora else "adapter"
    print(f"{args.out}: {what} of step {card.step} for {card.encoder_source} and {card.llm_source}")
    return 0
