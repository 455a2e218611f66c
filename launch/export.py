"""`slam-asr export SOURCE... OUT`: writes the adapter of a run as files for other places."""

import argparse

FORMATS = {  # of --format: one line
    "adapter": "adapter.safetensors, adapter.json and, if trained with LoRA, lora.safetensors",
    "averaged": "the same, of the mean of several checkpoints' weights",
    "merged": "an adapter without LoRA, for the LLM in OUT/llm, into which LoRA is merged",
    "hf": "a folder that transformers' AutoModel and pipeline open without slam-asr",
}
OF_SOME = {  # option: the formats that it is for
    "score": ("adapter", "averaged", "hf"),
    "llm": ("merged", "hf"),
    "encoder": ("hf",),
    "include_models": ("hf",),
    "llm_dtype": ("merged",),
    "trust_remote_code": ("merged",),
    "last": ("averaged",),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copy the adapter, and LoRA, out of a run or checkpoint, verified before and after, and write a README.md "
        "about them. The encoder and the LLM are not copied, unless --format hf --include-models asks for it: "
        "adapter.json names them, with the sha256 of their weights."
    )
    source = "run (its best checkpoint, else its newest), checkpoint or export folder; several to average"
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=source)
    parser.add_argument("out", metavar="OUT", help="new folder for the files")
    kinds = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    parser.add_argument("--format", default="adapter", help=f"{kinds} (default: adapter)")
    last = "with --format averaged and one run: average its N newest checkpoints"
    parser.add_argument("--last", type=int, metavar="N", help=last)
    dtype = "float32 or float16 for the files, half the size (default: float32); loaded as float32 either way"
    parser.add_argument("--dtype", default="float32", help=dtype)
    score = "result of `slam-asr score --out`, for the same weights: README.md states its WER"
    parser.add_argument("--score", metavar="DIR", help=score)
    models = "with --format hf: copy encoder and LLM into the folder (default: name their Hugging Face ids)"
    parser.add_argument("--include-models", action="store_true", help=models)
    encoder = "with --format hf: the encoder's Hugging Face id, or where it is (default: as in adapter.json)"
    parser.add_argument("--encoder", metavar="ID", help=encoder)
    llm = "with --format merged or hf: the same for the LLM"
    parser.add_argument("--llm", metavar="ID", help=llm)
    stored = "with --format merged: float32, bfloat16 or float16 for the LLM's files (default: as the LLM is stored)"
    parser.add_argument("--llm-dtype", metavar="DTYPE", help=stored)
    code = "with --format merged: run Python code that comes with the LLM (default: refuse)"
    parser.add_argument("--trust-remote-code", action="store_true", help=code)


def run(args: argparse.Namespace) -> int:
    _require_fitting(args)
    source, out = args.sources[0], args.out
    if args.format == "averaged":
        from decode.export.average import export_averaged

        card = export_averaged(args.sources, out, args.last, args.dtype, args.score)
    elif args.format == "merged":
        from decode.export.merge import export_merged

        card, line = export_merged(source, out, args.dtype, args.llm, args.trust_remote_code, args.llm_dtype)
        print(f"{out}/llm: {line}")
    elif args.format == "hf":
        from decode.export.hugging_face.export import export_hf

        options = {name: getattr(args, name) for name in ("include_models", "dtype", "score", "encoder", "llm")}
        card = export_hf(source, out, **options)
    else:
        from decode.export.adapter import export

        card = export(source, out, args.dtype, args.score)
    what = "adapter and LoRA" if card.lora else "adapter"
    print(f"{out}: {what} of step {card.step} for {card.encoder_source} and {card.llm_source}")
    return 0


def _require_fitting(args: argparse.Namespace) -> None:
    """UserError for an unknown format, and for options of other formats."""
    from model.errors import UserError, require_known

    require_known("format of an export", args.format, FORMATS)
    for name, formats in OF_SOME.items():
        if getattr(args, name) and args.format not in formats:
            option = f"--{name.replace('_', '-')}"
            advice = "give that, or leave it out"
            if name == "score":
                advice = "score OUT, then `slam-asr export OUT OUT --score DIR`"
            raise UserError(f"{option} is for --format {' or '.join(formats)}, not {args.format}; {advice}")
    if args.format != "averaged" and len(args.sources) > 1:
        several = f"{len(args.sources)} sources are named, --format {args.format} takes one"
        raise UserError(f"{several}; give one, or --format averaged for the mean of their weights")
