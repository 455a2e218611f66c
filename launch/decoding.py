"""Flags that transcribe and score share, and the recogniser that they describe."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decode.dataset import DecodeOptions
    from model.slam_asr import SlamAsr


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, on what, searched how."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--encoder",
        metavar="ID",
        help="speech encoder, Hugging Face id or folder (default: the one that adapter.json names, or where it is now)",
    )
    model.add_argument("--llm", metavar="ID", help="LLM, Hugging Face id or folder (default: the same)")
    model.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto, cuda if there is one)")
    model.add_argument(
        "--dtype",
        default="auto",
        help="of both: float32, bfloat16 or float16 (default: auto, bfloat16 on a GPU that has it, else float32)",
    )
    model.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that comes with encoder or LLM (default: refuse)",
    )
    search = parser.add_argument_group("search")
    search.add_argument(
        "--beams", type=positive, default=1, metavar="N", help="hypotheses kept in the search (default: 1, greedy)"
    )
    search.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="most LLM tokens of one answer (default: 25 for each second of its audio, and 8)",
    )
    search.add_argument(
        "--batch-tokens",
        type=positive,
        default=2000,
        metavar="N",
        help="speech embeddings decoded at a time, beams counted; bounds memory (default: 2000, 200 s of speech)",
    )


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return number


def options(args: argparse.Namespace) -> DecodeOptions:
    """The search that the flags describe."""
    from decode.dataset import DecodeOptions

    return DecodeOptions(beams=args.beams, max_new_tokens=args.max_new_tokens, batch_tokens=args.batch_tokens)


def load(args: argparse.Namespace, with_encoder: bool = True) -> SlamAsr:
    """The recogniser of `args.adapter`; UserError as `load_for_decoding` says."""
    from model.weights import load_for_decoding

    if args.trust_remote_code:
        print("Python code that comes with encoder or LLM will be run (--trust-remote-code)", file=sys.stderr)
    model = load_for_decoding(
        args.adapter,
        encoder=args.encoder,
        llm=args.llm,
        dtype=args.dtype,
        device=choose_device(args.device),
        with_encoder=with_encoder,
        trust_remote_code=args.trust_remote_code,
    )
    if model.encoder is not None and model.encoder.dtype_note:
        print(model.encoder.dtype_note, file=sys.stderr)
    return model


def choose_device(name: str) -> str:
    """A device that is there; UserError otherwise."""
    import torch

    from model.errors import UserError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name!r} is not on this machine; use auto, cpu or one that is") from None
    return name
