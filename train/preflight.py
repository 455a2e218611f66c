"""What training would refuse before its first step, found out without loading a model's weights.

`slam-asr doctor` reports it. Each check is a function that opening the run calls too (open_run.py), here on a
recogniser without weights (model/skeleton.py). Weights are read only where cached features or a checkpoint may be of
others.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.encoders import load_encoder
from model.encoders.dtype import encoder_dtype
from model.errors import UserError
from model.llm import embedding_dim, load_llm
from model.loading.pretrained import choose_dtype
from model.skeleton import meta_models, read_config, skeleton
from model.slam_asr import SlamAsr
from train.data.corpus import Corpus
from train.engine.checkpoint import Checkpoint, find_newest, load_checkpoint
from train.parts import Indexes, identify_encoder, open_corpora
from train.recipe import auto
from train.recipe.config import Config
from train.remarks import rank_remarks, schedule_remarks
from train.resume import changes_since, require_same_run
from train.run_folder import require_run_folder


@dataclass
class Findings:
    """What would stop the training, and what does not suit it."""

    refusals: list[UserError] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def preflight(
    config: Config, indexes: Indexes, device: torch.device, ranks: int, allow_changes: bool = False
) -> Findings:
    """Of a recipe whose data and models are on this machine, for a run of so many ranks on such a device."""
    findings = Findings()
    try:
        require_run_folder(config)
        model = _skeleton(config)
        identity = _encoder_identity(config, indexes, model, device)
        corpus, dev = open_corpora(config, indexes, model, identity)
        newest, _ = find_newest(Path(config.run.dir) / "checkpoints")
        checkpoint = load_checkpoint(newest) if newest else None
        config = auto.keep(config, checkpoint.state.recipe if checkpoint else {})
        config = auto.decide_batch(config, corpus.cost, corpus.longest_cost, _most_tokens(config, model, device))
        epochs = corpus.epochs(config)
        total_steps = epochs.steps_of(config.optim.epochs, config.optim.max_steps)
        config = auto.decide_steps(config, total_steps, dev.cost if dev else 0)
        findings.remarks += schedule_remarks(config, epochs.num_steps(0), total_steps)
        findings.remarks += rank_remarks(config, ranks, corpus.longest_cost)
        if checkpoint:
            identities = _identities(config, corpus, model, identity, checkpoint) | {"order of the data": epochs.digest}
            changes = changes_since(checkpoint, config, identities)
            require_same_run(config, checkpoint, changes, model.adapter.spec, allow_changes)
    except UserError as error:
        findings.refusals.append(error)
    return findings


def _skeleton(config: Config) -> SlamAsr:
    m, a = config.model, config.model.adapter
    encoder = read_config("encoder", m.encoder, m.trust_remote_code)
    llm = read_config("LLM", m.llm, m.trust_remote_code)
    adapter = (a.type, a.stack, a.hidden, a.dropout)
    models = meta_models(encoder, llm, adapter, m.encoder_layer, m.trust_remote_code)
    return skeleton(models, m.llm, m.prompt, m.trust_remote_code)


def _encoder_identity(config: Config, indexes: Indexes, model: SlamAsr, device: torch.device) -> dict[str, Any]:
    """The encoder's fingerprint; without what only its weights tell where the data need no comparison with it."""
    features = next((index for index in indexes.all if index.kind == "features"), None)
    if features is not None:
        return identify_encoder(config, features, device)
    assert model.encoder is not None
    dtype, _ = encoder_dtype(model.encoder.model, config.model.dtype, device)
    own = model.encoder.fingerprint() | {"dtype": str(dtype).removeprefix("torch.")}
    return {name: own[name] for name in ("family", "layer", "dtype", "dim", "sample_rate")}


def _most_tokens(config: Config, model: SlamAsr, device: torch.device) -> int:
    assert model.encoder is not None
    size = choose_dtype(config.model.dtype, device).itemsize
    frozen = size * sum(p.numel() for part in (model.encoder, model.llm) for p in part.parameters())
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    llm: Any = model.llm
    return auto.tokens_that_fit(llm.config, frozen, memory, size)


def _identities(
    config: Config, corpus: Corpus, model: SlamAsr, encoder: dict[str, Any], checkpoint: Checkpoint
) -> dict[str, Any]:
    """Of data and models as they are now; weights from another place than the checkpoint's are read and compared."""
    m, card = config.model, checkpoint.card
    llm: Any = model.llm
    own_llm = {"family": llm.config.model_type, "dim": embedding_dim(llm), "vocabulary": len(model.prompt.tokenizer)}
    own_encoder = encoder
    if "weights" not in encoder and m.encoder != card.encoder_source:
        loaded = load_encoder(m.encoder, m.encoder_layer, encoder["dtype"], "cpu", m.trust_remote_code)
        own_encoder = loaded.fingerprint()
    if m.llm != card.llm_source:
        own_llm = load_llm(m.llm, "auto", "cpu", m.trust_remote_code).fingerprint
    return {
        "training data": corpus.index.digest(),
        "encoder": {**card.encoder, **own_encoder},
        "LLM": {**card.llm, **own_llm},
    }
