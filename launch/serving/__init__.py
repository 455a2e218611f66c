"""`slam-asr serve ADAPTER`: an HTTP server with OpenAI's interface for transcriptions."""

import argparse
import os
import sys
from pathlib import Path

from launch import decoding
from model.errors import UserError

TOKEN_VARIABLE = "SLAM_ASR_TOKEN"  # the name of an environment variable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serve transcripts over HTTP, with OpenAI's interface: POST /v1/audio/transcriptions. Recordings of all "
        "clients are decoded together. A web page at / transcribes a file or the microphone. Only this machine is "
        "served unless --host says otherwise. SIGTERM ends it when everything accepted is answered."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="run, checkpoint or export folder")
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every one (default: 127.0.0.1)")
    add("--port", type=int, default=8000, metavar="N", help="port; 0 takes a free one (default: 8000)")
    add("--name", help="the model's name for clients (default: that of ADAPTER's folder)")
    token = f"file with the token that clients must send (default: {TOKEN_VARIABLE} of the environment; else none)"
    add("--token-file", type=Path, metavar="FILE", help=token)
    add = parser.add_argument_group("limits").add_argument
    add("--max-megabytes", type=_above_0, default=25.0, metavar="N", help="size of a request (default: 25)")
    add("--max-seconds", type=_above_0, default=7200.0, metavar="N", help="length of a recording (default: 7200)")
    several = "requests at a time, uploading, waiting or being decoded (default: 256)"
    add("--max-requests", type=decoding.positive, default=256, metavar="N", help=several)
    own = "of those, from one address (default: 128)"
    add("--max-per-client", type=decoding.positive, default=128, metavar="N", help=own)
    decoding.add_window_flags(parser)
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from decode.serving.server import bind, listen, serve
        from decode.serving.service import Service
    except ImportError as error:
        raise UserError(f"serve needs {error.name}, which is not installed: pip install 'slam-asr[serve]'") from None
    from decode.recordings.segments import require_vad
    from decode.serving.connections import Limits, is_local
    from decode.serving.decoder import Decoder
    from decode.serving.metrics import Metrics

    require_vad(args.vad)
    options, token = decoding.options(args), _token(args.token_file)
    limits = Limits(args.max_megabytes, args.max_seconds, args.max_requests, args.max_per_client)
    name = args.name or Path(os.path.realpath(args.adapter)).name
    with bind(args.host, args.port) as listening:  # before minutes of loading
        model, metrics = decoding.load(args), Metrics()
        decoder = Decoder(model, options, metrics, args.longest, args.vad, args.max_seconds)
        service = Service(decoder, metrics, name, limits, args.host, token)
        listen(listening)
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(f"serve: {name} at http://{host}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
        if token is None and not is_local(args.host):
            warning = "anybody who reaches this address can use it; give --token-file to ask for a token"
            print(f"serve: {warning}", file=sys.stderr)
        return serve(service, listening)


def _token(path: Path | None) -> str | None:
    """The token of a file, or of the environment. UserError for one that is missing or empty."""
    if path is None:
        token, place = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if not token:
            return None
    else:
        place = f"--token-file {path}"
        try:
            token = path.read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise UserError(f"{place} cannot be read: {error}") from None
    if not token or not all("!" <= character <= "~" for character in token):
        raise UserError(f"{place} must hold one token of printable ASCII characters, without spaces")
    return token


def _above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number
