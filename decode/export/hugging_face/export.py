"""`slam-asr export --format hf`: a folder that transformers opens offline, without this project, and that `slam-asr`
opens as any adapter.

    adapter.json, adapter.safetensors, lora.safetensors ...        as in every export (decode/export/adapter.py)
    encoder/, llm/                                                 if they are included, safetensors only
    config.json, processor_config.json, tokenizer ...              for AutoModel, AutoProcessor, pipeline
    slam_asr/*.py                                                  the code that they run (remote_code.py)
    README.md                                                      the model card"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from decode.export.adapter import README, export, written_whole
from decode.export.hugging_face.card import hub_card
from decode.export.hugging_face.included import include_encoder, include_llm
from decode.export.hugging_face.remote_code import ENTRY, remote_code
from decode.export.model_card import read_score
from model import weights
from model.errors import UserError
from model.frozen_parts import FrozenPart, OtherModel, open_part
from model.gguf import is_gguf
from model.sample_rate import SAMPLE_RATE
from model.skeleton import read_tokenizer
from model.weights import AdapterCard

ENCODER, LLM, CODE = "encoder", "llm", "slam_asr"  # folders of an export
TASK, AUTO_MODEL = "automatic-speech-recognition", "AutoModelForSpeechSeq2Seq"


def export_hf(
    source: str | Path,
    out: str | Path,
    *,
    include_models: bool = False,
    dtype: str = "float32",
    score: str | Path | None = None,
    encoder: str | None = None,
    llm: str | None = None,
) -> AdapterCard:
    """Writes the recogniser of a run, checkpoint or export into the new folder `out`, which appears whole or not at
    all; returns its adapter.json.

    With `include_models`, encoder and LLM are copied there, in their stored dtype, and read again to compare their
    sha256; `encoder` and `llm` are then their places, if not those of adapter.json. Without, the folder names them by
    their Hugging Face ids: those of adapter.json, or `encoder` and `llm`. `dtype` and `score` as in adapter.py.
    UserError for a model that only a local folder names, for `out` that is there, and as in adapter.py."""
    source, out = weights.find_adapter(source), Path(out)
    if os.path.lexists(out):
        raise UserError(f"{str(out)!r} is there already; name a new folder")
    own = weights.read_card(source)
    card = own if include_models else _named(own, encoder, llm)
    with written_whole(out) as folder:
        card = replace(_adapter_files(source, folder, dtype, score), **_models_of(card, include_models))
        if include_models:
            include_encoder(own, source, encoder, folder / ENCODER)
            tokenizer = include_llm(own, source, llm, folder / LLM)
        else:
            tokenizer = _tokenizer(own, source, card.llm_source)
        weights.write_card(folder, card)
        _write_processor(folder, tokenizer)
        _write_json(folder / "config.json", _config(card))
        (folder / CODE).mkdir()
        for name, text in remote_code(needs_peft=card.lora is not None).items():
            weights.write_synced(folder / CODE / name, text.encode())
        scored = read_score(score, {own.digest, card.digest}) if score is not None else None
        ids = [source for source in (card.encoder_source, card.llm_source) if not _is_place(source)]
        weights.write_synced(folder / README, hub_card(out.name, card, folder, ids, scored).encode())
    return card


def _named(card: AdapterCard, encoder: str | None, llm: str | None) -> AdapterCard:
    """The card with Hugging Face ids for encoder and LLM. UserError for a local folder."""
    chosen = {}
    for what, flag, given in (("encoder", ENCODER, encoder), ("LLM", LLM, llm)):
        source, path = getattr(card, f"{flag}_source"), getattr(card, f"{flag}_path")
        if given is not None and _is_place(given):
            raise UserError(f"--{flag} {given!r} is no Hugging Face id; name one, or give --include-models to copy it")
        if given is None and (path or _is_place(source)):
            raise UserError(
                f"the {what} of this adapter is a local folder, {source!r}, which others do not have; copy it with "
                f"--include-models, or name it as it is on the Hugging Face hub with --{flag} ID"
            )
        chosen |= {f"{flag}_source": given or source, f"{flag}_path": ""}
    return replace(card, **chosen)


def _is_place(source: str) -> bool:
    outside_the_hub = source.startswith((".", "/", "~")) or source.count("/") > 1 or is_gguf(source)
    return outside_the_hub or os.path.isdir(source)


def _models_of(card: AdapterCard, included: bool) -> dict[str, str]:
    """The fields of adapter.json about encoder and LLM."""
    paths = {"encoder_path": ENCODER, "llm_path": LLM} if included else {"encoder_path": "", "llm_path": ""}
    return {"encoder_source": card.encoder_source, "llm_source": card.llm_source, **paths}


def _adapter_files(source: Path, folder: Path, dtype: str, score: str | Path | None) -> AdapterCard:
    """Writes the weights as every export has them, and returns their adapter.json."""
    plain = folder / "plain"
    export(source, plain, dtype, score)
    card = weights.read_card(plain)
    for file in plain.iterdir():
        file.rename(folder / file.name)
    plain.rmdir()
    return card


def _tokenizer(card: AdapterCard, folder: Path, llm: str) -> Any:
    """The LLM's tokenizer, from where the LLM is on this machine. UserError if it is not here."""

    def open_it(place: str, own_code: bool) -> Any:
        tokenizer = read_tokenizer(place)
        if len(tokenizer) != card.llm["vocabulary"]:
            trained = f"{card.llm['vocabulary']:,} tokens, that of {place!r} {len(tokenizer):,}"
            raise OtherModel(f"the adapter was trained with another LLM: its tokenizer has {trained}; give --llm")
        return tokenizer

    if not card.llm_path and not _is_place(card.llm_source):
        return open_it(llm, False)
    return open_part(FrozenPart("LLM", card.llm_source, card.llm_path, card.llm, folder), open_it)


def _write_processor(folder: Path, tokenizer: Any) -> None:
    """Waveforms as they are, padded, and the LLM's tokenizer: transformers' own classes."""
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLE_RATE, do_normalize=False, padding_value=0.0, return_attention_mask=True
    )
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)


def _config(card: AdapterCard) -> dict[str, Any]:
    from decode.export.hugging_face.modeling_slam_asr import (
        SlamAsrConfig,
        SlamAsrForSpeechSeq2Seq,
        SlamAsrPipeline,
    )

    place = f"{CODE}/{ENTRY.rpartition('.')[2]}."
    model = place + SlamAsrForSpeechSeq2Seq.__name__
    return {
        "model_type": SlamAsrConfig.model_type,
        "architectures": [SlamAsrForSpeechSeq2Seq.__name__],
        "auto_map": {"AutoConfig": place + SlamAsrConfig.__name__, "AutoModel": model, AUTO_MODEL: model},
        "custom_pipelines": {TASK: {"impl": place + SlamAsrPipeline.__name__, "pt": [AUTO_MODEL]}},
        ENCODER: f"./{card.encoder_path}" if card.encoder_path else card.encoder_source,
        LLM: f"./{card.llm_path}" if card.llm_path else card.llm_source,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    weights.write_synced(path, (json.dumps(content, indent=1) + "\n").encode())
