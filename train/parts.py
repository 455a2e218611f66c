"""The parts of a run that a recipe names: model, data, and what identifies them."""

from dataclasses import dataclass
from typing import Any

import torch

from data_prep.index import ShardIndex
from model.adapter import AdapterSpec, build_adapter
from model.encoders import load_encoder
from model.llm import embedding_dim, load_llm
from model.prompt import Prompt
from model.slam_asr import SlamAsr
from model.weights import AdapterCard
from train.config import Config
from train.corpus import Corpus, make_corpus, open_indexes, require_features
from train.world import World, decided_by_first


@dataclass(frozen=True)
class Parts:
    """The model and the data."""

    model: SlamAsr
    card: AdapterCard
    corpus: Corpus
    dev: Corpus | None
    notes: list[str]


def build_parts(config: Config, world: World) -> Parts:
    """Opens data and models and checks that they belong together. A collective."""
    train, dev = open_indexes(config.data.train), open_indexes(config.data.dev) if config.data.dev else None
    m = config.model
    llm = load_llm(m.llm, m.dtype, world.device, m.trust_remote_code)
    encoder, identity = _encoder(config, world, [index for index in (train, dev) if index is not None])
    a = m.adapter
    torch.manual_seed(config.run.seed)
    spec = AdapterSpec(a.type, a.stack, a.hidden, a.dropout, identity["dim"], embedding_dim(llm.model))
    adapter = build_adapter(spec)
    model = SlamAsr(encoder, adapter, llm, Prompt(llm.tokenizer, m.prompt)).to(world.device)
    card = AdapterCard(spec, identity, m.encoder, llm.fingerprint, m.llm, m.prompt)

    def corpus(index: ShardIndex, limit: int | None, budget: int) -> Corpus:
        return make_corpus(
            index, config.data, limit, budget, encoder if index.kind == "audio" else None, adapter, model.prompt
        )

    kept = corpus(train, config.data.max_train_samples, config.batch.tokens)
    kept_dev = None if dev is None else corpus(dev, config.data.max_dev_samples, config.eval.tokens)
    return Parts(model, card, kept, kept_dev, _notes(config, kept, kept_dev, model))


def _encoder(config: Config, world: World, indexes: list[ShardIndex]) -> tuple[Any, dict[str, Any]]:
    """The encoder if some data is audio, and its fingerprint; cached features are checked against it."""
    m = config.model
    arguments = (m.encoder, m.encoder_layer, m.dtype)
    if any(index.kind == "audio" for index in indexes):
        encoder = load_encoder(*arguments, world.device, m.trust_remote_code)
        identity = encoder.fingerprint()
    else:  # the encoder is not needed, only known: rank 0 looks at its weights and lets go of them
        encoder = None
        identity = decided_by_first(world, lambda: load_encoder(*arguments, "cpu", m.trust_remote_code).fingerprint())
    for index in indexes:
        if index.kind == "features":
            require_features(index, identity, m.dtype)
    return encoder, identity


def _notes(config: Config, train: Corpus, dev: Corpus | None, model: SlamAsr) -> list[str]:
    trained = sum(p.numel() for p in model.adapter.parameters())
    notes = [
        f"training on {len(train.ids):,} utterances, {train.seconds[train.ids].sum() / 3600:.2f} h of {train.index.kind}; "
        f"adapter of {trained:,} parameters between {config.model.encoder} and {config.model.llm}"
    ]
    if config.model.trust_remote_code:
        notes.append("model.trust_remote_code is true: code that comes with the checkpoints runs here")
    for name, corpus in (("data.train", train), ("data.dev", dev)):
        notes += [
            f"{name}: {count:,} utterances left out, {reason}"
            for reason, count in (corpus.dropped if corpus else {}).items()
        ]
    return notes
