"""README.md of an export, its model card: what the adapter is for, what it was trained on, how long, and its WER."""

import json
from pathlib import Path
from typing import Any

from data_prep.durable import read_regular, strict_json
from decode.export.origin import described
from model.errors import UserError
from model.weights import AdapterCard

SCORE, MAX_SCORE_BYTES = "score.json", 50_000_000


def read_score(path: str | Path, digests: set[str]) -> dict[str, Any]:
    """The score.json at `path`, or in that folder. UserError if it cannot be read, or is of other weights than those
    with one of these digests."""
    path = Path(path)
    path = path / SCORE if path.is_dir() else path
    try:
        score = strict_json(read_regular(path, MAX_SCORE_BYTES))
        measured, _ = score["weights_sha256"], _wer(score)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give what `slam-asr score --out` wrote") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no score of an adapter ({error!r}); give what `slam-asr score` wrote") from None
    if measured not in digests:
        raise UserError(f"{path} is the score of other weights (sha256 {measured[:12]} ...); score this adapter")
    return score


def facts(card: AdapterCard, sizes: dict[str, int], origin: dict[str, Any], score: dict[str, Any] | None = None) -> str:
    """A Markdown table of what is known of the adapter; `sizes` are those of the weights' files in bytes, `origin` as
    in origin.py."""
    spec, encoder, llm, lora = card.spec, card.encoder, card.llm, card.lora
    known = {
        "encoder": f"`{card.encoder_source}`: {encoder.get('family')}, frames of layer {encoder.get('layer')}",
        "encoder's weights": f"`{encoder.get('weights')}`",
        "LLM": f"`{card.llm_source}`: {llm.get('family')}",
        "LLM's weights": f"`{llm.get('weights')}`",
        "adapter": f"{spec.type}, {spec.stack} frames in an embedding, {spec.encoder_dim} -> {spec.llm_dim}",
        "LoRA": lora and f"rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}",
        **described(origin),
        "optimizer steps": f"{card.step:,}",
        "recipe (what the weights depend on)": card.recipe_sha256 and f"`{card.recipe_sha256}`",
        "training data": card.data_sha256 and f"`{card.data_sha256}`",
        "`adapter.safetensors`": f"`{card.weights_sha256}`, {sizes['adapter.safetensors']:,} bytes",
        "`lora.safetensors`": card.lora_sha256 and f"`{card.lora_sha256}`, {sizes['lora.safetensors']:,} bytes",
        "WER": score and _wer(score),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in known.items() if value)
    return f"| what | value (hexadecimal numbers are sha256) |\n|---|---|\n{rows}"


def model_card(
    card: AdapterCard, files: dict[str, bytes], origin: dict[str, Any], score: dict[str, Any] | None = None
) -> str:
    """The text of README.md; `files` are the weights {file name: bytes}, `origin` as in origin.py."""
    table = facts(card, {name: len(data) for name, data in files.items()}, origin, score)
    return f"""\
# Speech recognition with `{card.encoder_source}` and `{card.llm_source}`

An adapter of slam-asr. It maps the frames of a frozen speech encoder to input embeddings of a frozen LLM, which writes
the transcript. Encoder and LLM are not in this folder.

    slam-asr transcribe THIS_FOLDER recording.wav

{table}

The prompt, where the embeddings take the place of `<speech>`, as a JSON string:

    {json.dumps(card.prompt, ensure_ascii=False)}
"""


def _wer(score: dict[str, Any]) -> str:
    total = score["all"]
    errors = total["substitutions"] + total["deletions"] + total["insertions"]
    counts = f"{errors:,} errors in {total['words']:,} words of {total['utterances']:,} utterances"
    low, high = total.get("interval") or (None, None)
    interval = f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else ""
    how = f"beams {score['beams']}, normaliser {score['normaliser']}"
    other = f", with other weights: {score['other_weights']}" if "other_weights" in score else ""
    rate = "none" if total["wer"] is None else f"{100 * total['wer']:.1f} %"  # of recordings in which nothing is said
    return f"{rate}{interval}: {counts}; {how}, data `{score['shards_digest']}`{other}"
