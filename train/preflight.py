"""Finds what training would refuse before its first step, without loading a model's weights, for `slam-asr doctor`.

The checks are those of opening a run (open_run.py), on a recogniser without weights (model/skeleton.py). Weights are
read only where cached features or a checkpoint may be of others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.encoders import encoder_dtype, load_encoder, open_extractor
from model.errors import UserError
from model.llm import embedding_dim, load_llm
from model.llm.activation_checkpointing import checkpoint_activations
from model.llm.bits import is_quantised, require_linear_layers, require_quantisable
from model.loading import local_folder
from model.skeleton import meta_models, read_config, skeleton
from model.slam_asr import SlamAsr
from model.weights import AdapterCard
from train.data.indexes import Indexes
from train.engine.checkpoint import find_newest, load_checkpoint
from train.parts import (
    Parts,
    decide,
    identify_encoder,
    lora_spec,
    model_remarks,
    open_corpora,
    remarks,
    tokens_that_fit,
)
from train.recipe.config import Config
from train.resume import require_same_run
from train.run_folder import require_run_folder
from train.warm_start import open_source, require_fitting

IDENTITY = ("family", "layer", "dtype", "window", "dim", "sample_rate")
"""The fields of an encoder's fingerprint that are known from its configuration."""


def preflight(
    config: Config, indexes: Indexes, device: torch.device, ranks: int, allow_changes: bool = False
) -> tuple[UserError | None, list[str]]:
    """What would stop the training, and what of the recipe does not suit its data or so many ranks on such a device.
    The recipe's data and models are on this machine."""
    unsuited: list[str] = []
    try:
        require_run_folder(config)
        parts = _skeleton_parts(config, indexes, device)
        newest, _ = find_newest(Path(config.run.dir) / "checkpoints")
        checkpoint = load_checkpoint(newest) if newest else None
        source = open_source(config, checkpoint)
        parts = replace(parts, init_sha256=source.digest if source else "")
        recipe = checkpoint.state.recipe if checkpoint else {}
        config, epochs, total_steps = decide(config, parts, recipe, tokens_that_fit(config, parts.model, device))
        unsuited = remarks(config, epochs.num_steps(0), total_steps, ranks, parts.corpus.longest_cost)
        unsuited += model_remarks(config, parts, device, is_new=checkpoint is None)
        if checkpoint:
            parts = replace(parts, card=_completed(parts.card, checkpoint.card, config))
            require_same_run(checkpoint, config, parts, epochs.digest, allow_changes)
        elif source and source.card:  # what only the weights would tell is assumed to be equal
            card, trained = parts.card, source.card
            card = replace(card, encoder={**trained.encoder, **card.encoder}, llm={**trained.llm, **card.llm})
            require_fitting(source, card, allow_changes)
    except UserError as error:
        return error, unsuited
    return None, unsuited


def _skeleton_parts(config: Config, indexes: Indexes, device: torch.device) -> Parts:
    """Model and data; the card's fingerprints lack what only the weights tell."""
    m = config.model
    encoder = read_config("encoder", m.encoder, m.trust_remote_code)
    llm = read_config("LLM", m.llm, m.trust_remote_code)
    models = meta_models(encoder, llm, m.adapter.model_dump(), m.encoder_layer, m.trust_remote_code, m.encoder_window)
    model = skeleton(models, m.llm, m.prompt_texts, m.trust_remote_code)
    open_extractor(m.encoder, str(local_folder(m.encoder) or m.encoder), encoder, m.trust_remote_code)
    if is_quantised(m.dtype_of_llm):
        require_quantisable(m.dtype_of_llm)
        require_linear_layers(model.llm, m.llm)
    if m.activation_checkpointing:
        checkpoint_activations(model.llm)
    identity = _encoder_identity(config, indexes, model, device)
    llm_identity = {"family": llm.model_type, "dim": embedding_dim(model.llm)}
    llm_identity |= {"vocabulary": len(model.prompt.tokenizer)}
    lora = lora_spec(config.lora, model.llm)
    card = AdapterCard(model.adapter.spec, identity, m.encoder, llm_identity, m.llm, model.prompt.template, lora=lora)
    return Parts(model, card, *open_corpora(config, indexes, model, identity))


def _encoder_identity(config: Config, indexes: Indexes, model: SlamAsr, device: torch.device) -> dict[str, Any]:
    features = next((index for index in indexes.given if index.kind == "features"), None)
    if features is not None:
        return identify_encoder(config, features, device)
    assert model.encoder is not None
    dtype, _ = encoder_dtype(model.encoder.model, config.model.dtype_of_encoder, device)
    fingerprint = model.encoder.fingerprint() | {"dtype": str(dtype).removeprefix("torch.")}
    return {name: fingerprint[name] for name in IDENTITY if name in fingerprint}


def _completed(card: AdapterCard, trained: AdapterCard, config: Config) -> AdapterCard:
    """The card with the fingerprints of the weights: those of `trained`, or read where they come from elsewhere."""
    m, encoder, llm = config.model, card.encoder, card.llm
    if "weights" not in encoder and m.encoder != trained.encoder_source:
        options = (m.encoder_layer, encoder["dtype"], "cpu", m.trust_remote_code, m.encoder_window)
        encoder = load_encoder(m.encoder, *options).fingerprint()
    if m.llm != trained.llm_source:
        llm = load_llm(m.llm, "auto", "cpu", m.trust_remote_code).fingerprint
    return replace(card, encoder={**trained.encoder, **encoder}, llm={**trained.llm, **llm})
