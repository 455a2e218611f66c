"""`slam-asr import FILE OUT`: an adapter that another toolkit trained, as an export folder."""

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write model.pt of SLAM-LLM (projector linear or cov1d-linear, with or without LoRA) or adapter_weights.pt of "
        "slam_asr_pytorch as an export folder, which transcribe and score take. Nothing in the file is run."
    )
    parser.add_argument("file", metavar="FILE", help="model.pt or adapter_weights.pt")
    parser.add_argument("out", metavar="OUT", help="new folder")
    models = "Hugging Face id or folder of the one that it was trained with"
    parser.add_argument("--encoder", metavar="ID", required=True, help=f"encoder: {models}")
    parser.add_argument("--llm", metavar="ID", required=True, help=f"LLM: {models}")
    parser.add_argument("--layer", metavar="N", help="layer of the encoder (default: the last)")
    prompt = "the prompt of the training, with <speech> (default: that of its toolkit)"
    parser.add_argument("--prompt", metavar="TEXT", help=prompt)
    alpha = "alpha of LoRA, which the file does not say (default: 32, SLAM-LLM's)"
    parser.add_argument("--lora-alpha", type=float, default=32.0, metavar="ALPHA", help=alpha)
    code = "run Python code that comes with the encoder or the LLM (default: refuse)"
    parser.add_argument("--trust-remote-code", action="store_true", help=code)


def run(args: argparse.Namespace) -> int:
    from decode.importing.adapter import Models, import_adapter

    models = Models(args.encoder, args.llm, args.layer, args.trust_remote_code)
    card, toolkit = import_adapter(args.file, args.out, models, args.prompt, args.lora_alpha)
    what = f"{card.spec.type} adapter{' and LoRA' if card.lora else ''} of {toolkit}"
    if card.encoder["family"] == "whisper" and toolkit == "SLAM-LLM":
        note = "SLAM-LLM gives the LLM all 300 embeddings of 30 s from Whisper, here it gets those of the recording"
        print(f"slam-asr: {note}; the WER may be higher", file=sys.stderr)
    shown = f"{card.encoder_source} and {card.llm_source}, {card.spec.stack} frames in an embedding"
    print(f"{args.out}: {what} for {shown}; measure its WER with slam-asr score")
    return 0
