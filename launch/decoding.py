"""The flags common to transcribe and score, and the model that they specify."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from data_prep.text import printable
from model.errors import UserError, counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from decode.options import DecodeOptions
    from model.slam_asr import SlamAsr


NOTES = {
    "cut": "with an answer truncated at the token limit",
    "loop": "whose first answer was a loop (--strict keeps it)",
    "echo": "whose first answer repeated the prompt (--strict keeps it)",
    "refusal": "whose first answer was a refusal (--strict keeps it)",
    "nan": "for which the LLM computed NaN, as it may in float16, with empty text; give --llm-dtype float32",
    "silence": "without speech, with empty text",
    "too-short": "too short to transcribe, scored as empty",
    "too-long": "too long to transcribe, scored as empty",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    encoder = "speech encoder, Hugging Face id or folder (default: that in adapter.json, or wherever it was moved to)"
    add("--encoder", metavar="ID", help=encoder)
    add("--llm", metavar="ID", help="LLM, Hugging Face id, folder or GGUF file (default: the same)")
    other = "accept an encoder or LLM of --encoder, --llm whose weights are not those of training (default: refuse)"
    add("--other-weights", action="store_true", help=other)
    add("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto, cuda if available)")
    dtypes = "dtype of both: float32, bfloat16, float16 (default: auto, bfloat16 if the GPU has it, else float32)"
    add("--dtype", default="auto", help=dtypes)
    add("--encoder-dtype", metavar="DTYPE", help="dtype of the encoder (default: that of --dtype)")
    llm_dtype = "dtype of the LLM; also int8 and nf4, quantised by bitsandbytes (default: that of --dtype)"
    add("--llm-dtype", metavar="DTYPE", help=llm_dtype)
    code = "run Python code shipped with the encoder or LLM (default: refuse)"
    add("--trust-remote-code", action="store_true", help=code)
    backend = (
        "vllm:URL, a vLLM server that has the LLM and decodes, as vllm:http://127.0.0.1:8000 (default: decode here)"
    )
    add("--backend", metavar="BACKEND", help=backend)
    add = parser.add_argument_group("search").add_argument
    add("--beams", type=positive, default=1, metavar="N", help="hypotheses kept in the search (default: 1, greedy)")
    add(
        "--nbest",
        type=positive,
        default=1,
        metavar="N",
        help="hypotheses returned per answer, at most --beams (default: 1)",
    )
    lengths = "a hypothesis's score is its log-probability / tokens ** X; higher prefers longer (default: 0)"
    add("--length-penalty", type=float, default=0.0, metavar="X", help=f"with --beams: {lengths}")
    repeated = "above 1: tokens already in the answer become less likely (default: 1, off)"
    add("--repetition-penalty", type=float, default=1.0, metavar="X", help=repeated)
    strict = "keep every first answer; by default loops are stopped, and loops, echoes, refusals decoded again"
    add("--strict", action="store_true", help=strict)
    bound = "maximum LLM tokens per answer (default: 25 per second of its audio, plus 8)"
    add("--max-new-tokens", type=positive, metavar="N", help=bound)
    budget = "speech embeddings per batch, times beams; limits memory (default: 2000, about 200 s of speech)"
    add("--batch-tokens", type=positive, default=2000, metavar="N", help=budget)


def add_window_flags(parser: argparse.ArgumentParser) -> None:
    """--longest and --vad: how recordings are cut into windows."""
    add = parser.add_argument_group("long recordings").add_argument
    longest = (
        "longest window decoded at once (default: what 95 %% of the training utterances did not exceed; at most 30)"
    )
    add("--longest", type=window_seconds, metavar="SECONDS", help=longest)
    vad = "voice activity detector, as silence is not decoded: energy (default), silero (extra vad) or off"
    add("--vad", default="energy", metavar="NAME", help=vad)


def window_seconds(text: str) -> float:
    """The argument of --longest."""
    from decode.recordings.segments import LEAST_SECONDS

    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not LEAST_SECONDS <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of {LEAST_SECONDS:g} or more")
    return seconds


def given(args: argparse.Namespace) -> list[str]:
    """The flags of `add_flags` that are not at their defaults, as they are written."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    defaults = vars(parser.parse_args([]))
    return [f"--{name.replace('_', '-')}" for name, default in defaults.items() if getattr(args, name) != default]


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def options(args: argparse.Namespace) -> DecodeOptions:
    """UserError for flags that contradict each other, or are out of range."""
    from decode.options import DecodeOptions

    if args.backend is not None and args.beams > 1:
        raise UserError(f"--beams {args.beams}: with --backend the search is greedy; leave one of the two out")
    names = ("beams", "max_new_tokens", "batch_tokens", "nbest", "length_penalty", "repetition_penalty", "strict")
    return DecodeOptions(**{name: getattr(args, name) for name in names})


def backend(args: argparse.Namespace) -> str | None:
    """--backend as it is recorded beside transcripts, without secrets; None without it."""
    from decode.backend import parse_backend

    return None if args.backend is None else parse_backend(args.backend).shown


def say_notes(notes: Mapping[str, Sequence[str]], what: str) -> None:
    """Prints {note: names of the utterances with it} on stderr, one line per note."""
    for note, names in notes.items():
        first = f"the first is {printable(names[0])}"
        print(f"slam-asr: {counted(len(names), what)} {NOTES.get(note, printable(note))} ({first})", file=sys.stderr)


def load(args: argparse.Namespace, with_encoder: bool = True) -> SlamAsr:
    """The recogniser of `args.adapter`; UserError as `load_for_decoding` and `options` say."""
    options(args)
    from decode.backend import load_model
    from model.loading import choose_device, slow_dtype

    if args.trust_remote_code:
        print("Python code that comes with encoder or LLM will be run (--trust-remote-code)", file=sys.stderr)
    device, code = choose_device(args.device), args.trust_remote_code
    if args.backend is None and (slow := slow_dtype(args.llm_dtype or args.dtype, device)):
        print(f"slam-asr: {slow}; give --llm-dtype float32", file=sys.stderr)
    model = load_model(
        *(args.adapter, args.encoder, args.llm, args.dtype, device, with_encoder, code),
        encoder_dtype=args.encoder_dtype,
        llm_dtype=args.llm_dtype,
        other_weights=args.other_weights,
        backend=args.backend,
    )
    if args.backend is not None:
        served = model.llm.served
        compared = "its embeddings are the adapter's LLM's, its other weights are not compared"
        print(f"slam-asr: {served.server.shown} decodes with {served.name}: {compared}", file=sys.stderr)
    if model.encoder is not None and model.encoder.dtype_note:
        print(model.encoder.dtype_note, file=sys.stderr)
    return model
