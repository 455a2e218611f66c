"""The parts of a run that a recipe names: model, data, and what identifies them."""

from dataclasses import dataclass
from typing import Any

import torch

from data_prep.audio.augment import check_noise
from data_prep.shards import cache_folder
from data_prep.shards.index import ShardIndex
from model.adapter import AdapterSpec, build_adapter
from model.encoders import known_fingerprint, load_encoder
from model.errors import UserError, counted
from model.llm import embedding_dim, load_llm
from model.loading.pretrained import choose_dtype, files_digest
from model.prompt import Prompt
from model.slam_asr import SlamAsr
from model.weights import AdapterCard
from train.data.augmentation import Augmentation
from train.data.cached_features import require_features
from train.data.corpus import Corpus, join, make_corpus, read_indexes, require_apart, require_room
from train.dist.collectives import World
from train.recipe.config import Config
from train.recipe.kinds import Auto


@dataclass(frozen=True)
class Parts:
    """The model and the data."""

    model: SlamAsr
    card: AdapterCard
    corpus: Corpus
    dev: Corpus | None
    notes: list[str]


@dataclass(frozen=True)
class Indexes:
    """The shards of a recipe."""

    train: ShardIndex
    dev: ShardIndex | None

    @property
    def audio(self) -> bool:
        """Whether an encoder is needed: some of it is audio."""
        return any(index.kind == "audio" for index in self.all)

    @property
    def all(self) -> list[ShardIndex]:
        """Those that are given."""
        return [self.train, *([self.dev] if self.dev is not None else [])]

    def digests(self) -> dict[str, str]:
        """What identifies them."""
        return {"training data": self.train.digest(), "dev data": self.dev.digest() if self.dev else ""}


def open_data(config: Config) -> Indexes:
    """The shards that the recipe names, their indexes checked."""
    data = config.data
    cache_folder.configure(data.cache_dir, data.cache_gb)
    train = read_indexes(data.train, "data.train")
    dev = read_indexes(data.dev, "data.dev")
    require_apart(train, dev)
    indexes = Indexes(join(train), join(dev) if dev else None)
    require_room(indexes.train, data.shuffle_shards)
    return indexes


def identify_encoder(config: Config, features: ShardIndex, device: torch.device) -> dict[str, Any]:
    """The fingerprint of the recipe's encoder on `device`, which cached features only need known.

    It is not loaded where its files are those that made the features; else it is, on the CPU, and let go of again.
    """
    m = config.model
    files = features.totals.get("encoder_files")
    if files and files == files_digest(m.encoder):
        made = {name: value for name, value in features.fingerprint.items() if name != "feature_dtype"}
    else:
        made = load_encoder(m.encoder, m.encoder_layer, m.dtype, "cpu", m.trust_remote_code).fingerprint()
    return known_fingerprint(m.encoder, m.encoder_layer, m.dtype, made, device)


def build_parts(
    config: Config, world: World, indexes: Indexes, identity: dict[str, Any] | None, sharded: bool
) -> Parts:
    """Opens the models and checks that they and the data belong together.

    `identity` is the encoder's fingerprint where no encoder is needed. An LLM that is to be `sharded` stays on the host
    for the engine to deal out. UserError for what does not fit.
    """
    m, a = config.model, config.model.adapter
    encoder = None
    if identity is None:
        encoder = load_encoder(m.encoder, m.encoder_layer, m.dtype, world.device, m.trust_remote_code)
        identity = encoder.fingerprint()
    dtype = str(choose_dtype(m.dtype, world.device)).removeprefix("torch.")
    llm = load_llm(m.llm, dtype, "cpu" if sharded else world.device, m.trust_remote_code)
    torch.manual_seed(config.run.seed)
    spec = AdapterSpec(a.type, a.stack, a.hidden, a.dropout, identity["dim"], embedding_dim(llm.model))
    model = SlamAsr(encoder, build_adapter(spec), llm, Prompt(llm.tokenizer, m.prompt), config.batch.layout)
    model.adapter.to(world.device)
    card = AdapterCard(spec, identity, m.encoder, llm.fingerprint, m.llm, m.prompt)
    train, dev = open_corpora(config, indexes, model, identity)
    return Parts(model, card, train, dev, _notes(config, train, dev, model))


def open_corpora(
    config: Config, indexes: Indexes, model: SlamAsr, identity: dict[str, Any]
) -> tuple[Corpus, Corpus | None]:
    """What is trained and evaluated on. UserError for data that do not fit the encoder (`identity`) or the recipe."""

    def corpus(index: ShardIndex, limit: int | None, budget: int | Auto, augment: Augmentation | None) -> Corpus:
        if index.kind == "features":
            require_features(index, identity, config.model.dtype)
        return make_corpus(index, config.data, limit, budget, model, augment)

    augment = _augmentation(config, indexes.train, model, identity["dim"])
    train = corpus(indexes.train, config.data.max_train_samples, config.batch.tokens, augment)
    dev = corpus(indexes.dev, config.data.max_dev_samples, config.eval.tokens, None) if indexes.dev else None
    return train, dev


def _augmentation(config: Config, index: ShardIndex, model: SlamAsr, dim: int) -> Augmentation | None:
    if not config.augment.active:
        return None
    if config.augment.needs_audio and index.kind == "features":
        raise UserError(
            "augment changes speed or adds noise, which cached features cannot follow; give data.train audio shards, "
            "or leave augment.speed and augment.noise_share out"
        )
    check_noise(config.augment)
    frames = model.encoder.out_len if model.encoder else len
    return Augmentation(config.augment, config.data_seed, frames, dim)


def _notes(config: Config, train: Corpus, dev: Corpus | None, model: SlamAsr) -> list[str]:
    trained = sum(p.numel() for p in model.adapter.parameters())
    hours = train.seconds[train.ids].sum() / 3600
    notes = [
        f"training on {counted(len(train.ids), 'utterance')}, {hours:.2f} h of {train.index.kind}; "
        f"adapter of {trained:,} parameters between {config.model.encoder} and {config.model.llm}"
    ]
    if model.packing_note:
        notes.append(f"{model.packing_note}; packing would take less time and memory")
    if model.encoder is not None and model.encoder.dtype_note:
        notes.append(model.encoder.dtype_note)
    if config.model.trust_remote_code:
        notes.append("model.trust_remote_code is true: code that comes with the checkpoints runs here")
    for name, corpus in (("data.train", train), ("data.dev", dev)):
        notes += [
            f"{name}: {counted(count, 'utterance')} left out, {reason}"
            for reason, count in (corpus.dropped if corpus else {}).items()
        ]
    return notes
