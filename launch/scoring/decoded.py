"""`slam-asr score ADAPTER SHARDS`: the utterances of a shard directory, decoded by all ranks together.

1. Every rank reads the adapter's card and the index, which must be the same on all. Rank 0 checks --out.
2. Batches decoded by an earlier start are read from `decoding`, a folder in --out; the rest of the plan remains.
3. Each free rank takes the next batch (decode/dataset.py), and appends it to its own file there (decode/resume.py).
4. Rank 0 gathers the rows of all ranks, in the order of the index, and scores them; the others exit."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch import decoding
from launch.command import DONE, MISTAKE
from launch.scoring.rows import groups, require_replaceable
from model.errors import TransientError, UserError, counted
from train.dist.launch_env import RankEnv, read_rank_env

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.shards.index import ShardIndex
    from decode.dataset import DecodedBatch, DecodingPlan
    from launch.scoring.ranks import Ranks
    from launch.scoring.rows import ScoredRows
    from model.slam_asr import SlamAsr
    from model.weights import AdapterCard

RANKS = """\
on several GPUs, or hosts that share a file system; interrupted decoding resumes, on any number of ranks:
  torchrun --nproc_per_node 8 -m launch score ADAPTER SHARDS --out DIR
  deepspeed --num_accelerators 8 --module launch score ADAPTER SHARDS --out DIR
  srun --ntasks-per-node 8 slam-asr score ADAPTER SHARDS --out DIR"""
FOLDER = "decoding"  # in --out, until all is decoded and scored


class Task(NamedTuple):
    """What is to be decoded."""

    index: ShardIndex
    about: dict[str, Any]  # its facts in score.json
    content: dict[str, Any]  # what the transcripts depend on: the same for every rank and every start
    meta: list[dict[str, Any]]  # of each utterance; on rank 0 only


def decoded(args: argparse.Namespace) -> ScoredRows:
    """The hypotheses for an adapter and shards, on rank 0; the other ranks exit. Whatever is refused is refused before
    decoding."""
    place = read_rank_env()
    if place.size > 1 and args.out is None:
        if not place.first:
            sys.exit(MISTAKE)
        raise UserError(f"{place.size:,} ranks need a folder for what they decode: give --out, on a shared file system")
    from launch.scoring.ranks import joined

    with joined(place) as ranks, ExitStack() as until_decoded:
        rows = _decoded(args, place, ranks, until_decoded)
    if rows is None:
        sys.exit(DONE)
    return rows


def forget(out: Path) -> None:
    """Removes the kept batches, once they are scored and the results written."""
    from decode.resume import remove

    remove(out / FOLDER)


def _decoded(args: argparse.Namespace, place: RankEnv, ranks: Ranks, until_decoded: ExitStack) -> ScoredRows | None:
    """None on all ranks but the first."""
    from decode.dataset import plan_decoding, rest_of, undecoded
    from launch.scoring.ranks import own_device, require_gpus_apart
    from train.dist.collectives import agree_on, all_ranks_or_raise, rank0_broadcast, versions

    if ranks.size > 1:
        args.device = all_ranks_or_raise(ranks, lambda: own_device(args.device, place))
    task: Task = all_ranks_or_raise(ranks, lambda: _read(args, ranks.first))
    if ranks.size > 1:
        own = {"device": args.device.partition(":")[0], "--batch-tokens": args.batch_tokens}
        agree_on(ranks, {name: str(value) for name, value in (task.content | own | versions()).items()})
        require_gpus_apart(ranks, args.device)
    kept: list[DecodedBatch] = rank0_broadcast(ranks, lambda: _kept(args, task, until_decoded)) if args.out else []
    index = task.index
    model: SlamAsr = all_ranks_or_raise(ranks, lambda: decoding.load(args, with_encoder=index.kind == "audio"))
    done = {row.key for batch in kept for row in batch.rows}
    plan = plan_decoding(model, index, range(len(index)), decoding.options(args))
    plan = rest_of(plan, {i for i, key in enumerate(index.key) if key in done})
    shares = ranks.gather(_share(args, ranks, index, model, plan, kept))
    if not ranks.first:
        return None
    batches = [*kept, *(batch for share in shares for batch in share)]
    rows = {row.key: row for batch in batches for row in batch.rows} | {row.key: row for row in undecoded(index, plan)}
    return [rows[key] for key in index.key], task.meta, task.about | {"decoding": _speed(batches, ranks.size)}


def _read(args: argparse.Namespace, first: bool) -> Task:
    from data_prep.shards.opening import read_index
    from data_prep.shards.tar import read_meta
    from model.weights import describe, find_adapter, read_card, require_encoder

    if describe(Path(args.shards)) == "an adapter":
        swapped = describe(Path(args.adapter)) == "shards"
        todo = "write ADAPTER first, then SHARDS" if swapped else "give a directory that `slam-asr prep build` made"
        raise UserError(f"{args.shards!r} holds an adapter, not shards; {todo}")
    card = read_card(find_adapter(args.adapter))
    index = read_index(args.shards)
    if len(index) == 0:
        raise UserError(f"{index.root} holds no utterances; there is nothing to decode")
    if index.kind == "features":
        cached = {name: value for name, value in index.fingerprint.items() if name in card.encoder}
        require_encoder(card, cached, args.shards, args.other_weights)
        if args.encoder:
            _require_same_encoder(args, index, card)
    meta = [read_meta(index, i) for i in range(len(index))] if first else []
    if args.by and first:
        groups(args.by, meta)
    weights, search = {"weights_sha256": card.digest, "shards_digest": index.digest()}, _search(args)
    if args.other_weights:
        weights["other_weights"] = f"encoder {args.encoder}, llm {args.llm}"
    about = {"adapter": str(args.adapter), "step": card.step, "shards": str(args.shards), **weights, **search}
    if first:
        require_replaceable(args, about)
    models = {"encoder": card.encoder, "llm": card.llm}
    return Task(index, about, {**weights, **search, **models, **_dtypes(args, index), **_programs()}, meta)


def _search(args: argparse.Namespace) -> dict[str, Any]:
    """The options that decide which transcript is found."""
    fields = asdict(decoding.options(args))
    where = {} if args.backend is None else {"backend": decoding.backend(args)}
    return {name: value for name, value in fields.items() if name not in ("batch_tokens", "synced_gpus")} | where


def _dtypes(args: argparse.Namespace, index: ShardIndex) -> dict[str, str]:
    """What the models compute in; UserError for an unknown dtype."""
    from model.llm import computing_dtype
    from model.llm.bits import is_quantised
    from model.loading import choose_device, choose_dtype

    device, llm = choose_device(args.device), args.llm_dtype or args.dtype
    computing = str(computing_dtype(llm, device))
    dtypes = {"llm_dtype": f"{llm}, computing in {computing}" if is_quantised(llm) else computing}
    if index.kind == "audio":
        dtypes["encoder_dtype"] = str(choose_dtype(args.encoder_dtype or args.dtype, device))
    return {name: dtype.replace("torch.", "") for name, dtype in dtypes.items()}


def _programs() -> dict[str, str]:
    return {name: version(name) for name in ("slam-asr", "torch", "transformers")}


def _kept(args: argparse.Namespace, task: Task, until_decoded: ExitStack) -> list[DecodedBatch]:
    """The batches decoded by an earlier start; locks the folder until decoding ends."""
    from data_prep.durable import locked_folder
    from decode.resume import begin

    folder = args.out / FOLDER
    busy = f"another process is decoding in {folder}; wait for it, or give another --out"
    until_decoded.enter_context(locked_folder(folder, lambda: TransientError(busy)))
    kept = begin(folder, task.content, args.overwrite)
    if kept:
        there = f"{sum(len(batch.rows) for batch in kept):,} of {counted(len(task.index), 'utterance')}"
        print(f"slam-asr: {there} were decoded by an earlier start (in {folder})", file=sys.stderr)
    return kept


def _share(
    args: argparse.Namespace,
    ranks: Ranks,
    index: ShardIndex,
    model: SlamAsr,
    plan: DecodingPlan,
    kept: Sequence[DecodedBatch],
) -> list[DecodedBatch]:
    """The batches that this rank decodes. Returns once all ranks have finished. A collective."""
    from data_prep.progress import Progress, Silent
    from decode.dataset import audio_seconds, decode_batches
    from decode.resume import keep

    mine: list[DecodedBatch] = []
    rows_before, seconds_before = sum(len(batch.rows) for batch in kept), sum(batch.audio_seconds for batch in kept)
    total = round(seconds_before + audio_seconds(index, [i for batch in plan.batches for i in batch]))
    with (Progress if ranks.first else Silent)(total, "s of audio", "score") as progress:
        progress.keep(round(seconds_before))

        def show(rows: int = 0, seconds: float = 0.0) -> None:
            """Adds to the totals of all ranks; rank 0 shows them."""
            rows = rows_before + ranks.add("utterances", rows)
            seconds = seconds_before + ranks.add("milliseconds", round(1000 * seconds)) / 1000
            progress.advance(round(seconds) - progress.done, utterances=f"{rows:,} of {len(index):,}")

        try:
            for batch in decode_batches(model, index, plan, decoding.options(args), ranks.turns()):
                if args.out is not None:
                    keep(args.out / FOLDER, ranks.rank, batch)
                mine.append(batch)
                show(len(batch.rows), batch.audio_seconds)
            ranks.wait_for_all(show)
        except KeyboardInterrupt:
            if ranks.first and args.out is not None:
                print(
                    f"slam-asr: decoded batches are in {args.out / FOLDER}; run the same command to continue",
                    file=sys.stderr,
                )
            raise
    return mine


def _speed(batches: Sequence[DecodedBatch], ranks: int) -> dict[str, Any]:
    """Decoding time in seconds, summed over ranks and starts, so that `rtfx`, the seconds of audio per second, is the
    speed of one rank; `ranks` is their number in the last start."""
    seconds, audio = sum(batch.seconds for batch in batches), sum(batch.audio_seconds for batch in batches)
    rtfx = round(audio / seconds, 2) if seconds else None
    return {"seconds": round(seconds, 2), "audio_seconds": round(audio, 2), "rtfx": rtfx, "ranks": ranks}


def _require_same_encoder(args: argparse.Namespace, index: ShardIndex, card: AdapterCard) -> None:
    """UserError if --encoder was given for features, which need none, and is not the adapter's."""
    from model.encoders import load_encoder
    from model.loading import files_digest
    from model.weights import require_encoder

    files = index.totals.get("encoder_files")
    if not files or files != files_digest(args.encoder):
        dtype, layer, window = args.encoder_dtype or args.dtype, card.encoder["layer"], card.encoder.get("window")
        encoder = load_encoder(args.encoder, layer, dtype, "cpu", args.trust_remote_code, window)
        require_encoder(card, encoder.fingerprint(), args.encoder, args.other_weights)
