"""The model and the data of a recipe, the values it leaves to auto, and remarks on values that do not suit them."""

import json
import os
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from data_prep.shards.index import ShardIndex
from model.adapters import adapter_spec, build_adapter
from model.encoders import known_fingerprint, load_encoder, samples_per_frame
from model.errors import counted
from model.llm import computing_dtype, load_llm
from model.llm.activation_checkpointing import checkpoint_activations
from model.llm.bits import is_quantised, require_quantisable, weight_bytes
from model.loading import choose_dtype, cpu_has, files_digest, slow_dtype
from model.lora import LoraSpec, add_lora, find_targets, lora_parameters, require_peft
from model.prompt import SHORT_TEMPLATE, Prompt
from model.slam_asr import SlamAsr
from model.weights import AdapterCard
from train.data.augmentation import open_augmentation
from train.data.corpus import Corpus, make_corpus
from train.data.indexes import Indexes, require_features
from train.data.plan import Epochs
from train.dist.collectives import World
from train.engine.schedule import warmup_steps
from train.recipe import auto
from train.recipe.config import Config
from train.recipe.kinds import decided
from train.recipe.models import LoraConfig

MOST_WARMUP_SHARE = 1 / 3
MOST_PROMPT_SHARE, MANY_PROMPT_TOKENS = 0.3, 20  # of the LLM tokens of an average utterance; the default has 13
LARGE_ENOUGH = 50e6  # parameters of an LLM whose time is that of its matrices
MOST_LR = 0.02  # ten times the highest learning rate of a recipe: 1 for 1e-3, say
FEWEST_STEPS = 200  # fewer updates rarely bring an adapter to where the LLM begins to use the audio


@dataclass(frozen=True)
class Parts:
    """The model and the data."""

    model: SlamAsr
    card: AdapterCard
    corpus: Corpus
    dev: Corpus | None
    init_sha256: str = ""  # sha256 of the weights of model.init_from


def identify_encoder(config: Config, features: ShardIndex, device: torch.device) -> dict[str, Any]:
    """The fingerprint of the recipe's encoder on `device`, which cached features only need known. It is not loaded if
    its files are those that made the features; else it is, on the CPU, and freed again."""
    m = config.model
    files = features.totals.get("encoder_files")
    if files and files == files_digest(m.encoder):
        made = {name: value for name, value in features.fingerprint.items() if name != "feature_dtype"}
    else:
        options = (m.encoder_layer, m.dtype_of_encoder, "cpu", m.trust_remote_code, m.encoder_window)
        made = load_encoder(m.encoder, *options).fingerprint()
    return known_fingerprint(m.encoder, m.encoder_layer, m.dtype_of_encoder, made, device, m.encoder_window)


def build_parts(
    config: Config, device: torch.device, indexes: Indexes, identity: dict[str, Any] | None, sharded: bool
) -> Parts:
    """Opens the models and checks that they and the data belong together.

    `identity` is the encoder's fingerprint where no encoder is needed. An LLM that is to be `sharded` stays on the host
    for the engine to deal out. UserError for what does not fit."""
    m = config.model
    quantised = is_quantised(m.dtype_of_llm)
    if quantised:
        require_quantisable(m.dtype_of_llm, sharded)
    encoder = None
    if identity is None:
        options = (m.encoder_layer, m.dtype_of_encoder, device, m.trust_remote_code, m.encoder_window)
        encoder = load_encoder(m.encoder, *options)
        identity = encoder.fingerprint()
    dtype = m.dtype_of_llm if quantised else str(computing_dtype(m.dtype_of_llm, device)).removeprefix("torch.")
    llm = load_llm(m.llm, dtype, "cpu" if sharded else device, m.trust_remote_code)
    if m.activation_checkpointing:
        checkpoint_activations(llm.model)
    spec = adapter_spec(m.adapter.model_dump(), identity, llm.model)
    torch.manual_seed(config.run.seed)
    adapter, lora = build_adapter(spec), lora_spec(config.lora, llm.model)
    if lora is not None:
        add_lora(llm.model, lora)
    prompt = Prompt(llm.tokenizer, *m.prompt_texts)
    model = SlamAsr(encoder, adapter, llm, prompt, config.batch.layout)
    model.samples_per_frame = samples_per_frame(identity)
    model.adapter.to(device)
    train, dev = open_corpora(config, indexes, model, identity)
    card = AdapterCard(
        *(spec, identity, m.encoder, llm.fingerprint, m.llm, prompt.template),
        lora=lora,
        utterance_seconds=train.usual_seconds,
    )
    return Parts(model, card, train, dev)


def lora_spec(lora: LoraConfig, llm: Any) -> LoraSpec | None:
    """The recipe's LoRA for this LLM, which may be on the meta device; None if its rank is 0. UserError if peft is not
    installed, or for layers that the LLM does not have."""
    if lora.rank == 0:
        return None
    require_peft()
    return LoraSpec(lora.rank, lora.alpha, find_targets(llm, lora.targets), lora.dropout)


def open_corpora(
    config: Config, indexes: Indexes, model: SlamAsr, identity: dict[str, Any]
) -> tuple[Corpus, Corpus | None]:
    """The training and dev set. UserError for data that do not fit the encoder (`identity`) or the recipe."""
    data, dev = config.data, None
    for index in indexes.given:
        if index.kind == "features":
            require_features(index, identity, config.model.dtype_of_encoder)
    augment = open_augmentation(config.augment, indexes.train.kind, config.data_seed, model)
    train = make_corpus(indexes.train, data, data.max_train_samples, config.batch.tokens, model, augment)
    if indexes.dev is not None:
        dev = make_corpus(indexes.dev, data, data.max_dev_samples, config.eval.tokens, model, evenly=True)
    return train, dev


def tokens_that_fit(config: Config, model: SlamAsr, device: torch.device) -> int:
    """LLM tokens of a micro-batch that fit into the device's memory beside the frozen weights."""
    m = config.model
    computed, encoder = computing_dtype(m.dtype_of_llm, device), model.encoder.parameters() if model.encoder else ()
    frozen = weight_bytes(model.llm, m.dtype_of_llm, computed)
    frozen += choose_dtype(m.dtype_of_encoder, device).itemsize * sum(p.numel() for p in encoder)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return auto.tokens_that_fit(config, model.llm.config, frozen, memory, computed.itemsize)


def decide(config: Config, parts: Parts, recipe: dict[str, Any], most_tokens: int) -> tuple[Config, Epochs, int]:
    """The recipe with its autos decided, the order of its data, and its steps. `recipe` is that of the checkpoint it
    resumes from ({} if none); a micro-batch holds `most_tokens`."""
    corpus = parts.corpus
    config = auto.decide_batch(auto.keep(config, recipe), corpus.cost, corpus.longest_cost, most_tokens)
    epochs = corpus.epochs(config)
    total_steps = epochs.steps_of(config.optim.epochs, config.optim.max_steps)
    return auto.decide_steps(config, total_steps, parts.dev.cost if parts.dev else 0), epochs, total_steps


def describe(config: Config, parts: Parts, epochs: Epochs, total_steps: int, world: World) -> list[str]:
    """Lines for the start of a run: data, model, steps, batch, intervals, device and threads, as they were decided."""
    model, train = parts.model, parts.corpus
    trained, hours = sum(p.numel() for p in model.adapter.parameters()), train.seconds[train.ids].sum() / 3600
    lines = [
        f"training on {counted(len(train.ids), 'utterance')}, {hours:.2f} h of {train.index.kind}; "
        f"adapter of {trained:,} parameters between {config.model.encoder} and {config.model.llm}"
    ]
    if (lora := parts.card.lora) is not None:
        count, lr = sum(p.numel() for p in lora_parameters(model.llm).values()), config.lora.lr or config.optim.lr
        layers = ", ".join(lora.targets)
        lines.append(
            f"LoRA of rank {lora.rank} on the LLM's {layers}: {count:,} parameters, trained with a learning rate of "
            f"up to {lr:g}"
        )
    if model.packing_note:
        lines.append(f"{model.packing_note}; packing would take less time and memory")
    if model.encoder is not None and model.encoder.dtype_note:
        lines.append(model.encoder.dtype_note)
    if config.model.trust_remote_code:
        lines.append("model.trust_remote_code is true: code that comes with the checkpoints runs here")
    for name, corpus in (("data.train", train), ("data.dev", parts.dev)):
        dropped = corpus.dropped if corpus else {}
        lines += [f"{name}: {counted(count, 'utterance')} left out, {why}" for why, count in dropped.items()]
    steps, tokens, slots = epochs.num_steps(0), decided(config.batch.tokens), decided(config.batch.micro_batches)
    saved = "at the end of an epoch" if config.save.strategy == "epoch" else f"every {config.save.every_steps} steps"
    validated = f"every {config.eval.every_steps} steps" if config.eval.every_steps else "with each"
    validation = f", validation {validated}" if config.data.dev else ""
    ranks = f"{world.size} ranks, each with " if world.size > 1 else ""
    return [
        *lines,
        f"{total_steps:,} steps in all, {steps:,} an epoch ({total_steps / steps:.3g} epochs); a step has up to "
        f"{tokens * slots:,} LLM tokens in {slots} micro-batches of {tokens:,}",
        f"learning rate: {warmup_steps(config.optim, total_steps):,} steps of warm-up to {config.optim.lr:g}, then "
        f"{config.optim.schedule}; a checkpoint {saved}{validation}",
        f"device: {world.device.type}, {ranks}{os.environ.get('OMP_NUM_THREADS', '?')} threads; steps are logged in "
        f"{config.run.dir}/metrics.jsonl, every {config.log.every_steps}",
    ]


def model_remarks(config: Config, parts: Parts, device: torch.device, is_new: bool) -> list[str]:
    """What of prompt and dtype does not suit the data and the device. The dtype of a run that is not new stays."""
    of_dtype = dtype_remarks(config, parts.model.llm.model, device) if is_new else []
    return prompt_remarks(parts.corpus.prompt_tokens, parts.corpus.mean_tokens) + of_dtype


def dtype_remarks(config: Config, llm: torch.nn.Module, device: torch.device) -> list[str]:
    """What to set where the CPU computes an LLM of some size faster in another dtype. Only said, never chosen: the
    weights that a run ends with depend on it, and a run may be resumed on another CPU."""
    dtype = config.model.dtype_of_llm
    if device.type != "cpu" or sum(p.numel() for p in llm.parameters()) < LARGE_ENOUGH:
        return []
    if dtype == "auto" and cpu_has("bfloat16"):
        return [
            "the LLM is computed in float32, the default on CPUs, but this CPU has instructions for bfloat16: a new "
            "run with model.llm_dtype=bfloat16 trains 1.3 to 2 times as fast, with slightly other results"
        ]
    slow = slow_dtype(dtype, device)
    return [f"{slow}; set model.llm_dtype=float32"] if slow else []


def remarks(config: Config, steps_an_epoch: int, total_steps: int, ranks: int, longest_cost: int) -> list[str]:
    """What of a decided recipe does not suit its data or the ranks, with the values to set."""
    return schedule_remarks(config, steps_an_epoch, total_steps) + rank_remarks(config, ranks, longest_cost)


def schedule_remarks(config: Config, steps_an_epoch: int, total_steps: int) -> list[str]:
    """What of the schedule does not suit the data, with the value to set; `config` is decided (auto.py)."""
    optim, warmup, remarks = config.optim, warmup_steps(config.optim, total_steps), []
    if warmup > MOST_WARMUP_SHARE * total_steps:
        never = warmup >= total_steps and optim.schedule != "constant"
        remarks.append(
            f"the warm-up takes {warmup:,} of {total_steps:,} steps"
            + f", so the {optim.schedule} decay never begins" * never
            + f"; set optim.warmup_steps={ceil(total_steps / 10)}, or leave it to auto"
        )
    if optim.lr > MOST_LR:
        remarks.append(f"optim.lr={optim.lr:g} is more than adapters learn with; recipes have 1e-4 to 2e-3")
    if total_steps < FEWEST_STEPS:
        epochs = f"optim.epochs={ceil(FEWEST_STEPS / steps_an_epoch)}"
        more = epochs if optim.max_steps is None else f"optim.max_steps={FEWEST_STEPS} or more"
        remarks.append(
            f"{counted(total_steps, 'step')} in all: an adapter rarely learns to transcribe in fewer than "
            f"{FEWEST_STEPS}; set {more}, or a smaller step (batch.tokens)"
        )
    return remarks + patience_remarks(config, steps_an_epoch, total_steps)


def patience_remarks(config: Config, steps_an_epoch: int, total_steps: int) -> list[str]:
    """Where eval.patience does not suit the schedule."""
    patience, schedule, remarks = config.eval.patience, config.optim.schedule, []
    if patience is None:
        return []
    every = auto.eval_every(config, steps_an_epoch)
    if schedule != "constant":
        remarks.append(
            f"eval.patience={patience} may end the run before the {schedule} decay, which lasts to step "
            f"{total_steps:,}, has lowered the learning rate, when a run gains most; set optim.schedule=constant, or "
            "leave eval.patience out: save.best keeps the best step all the same"
        )
    if warmup_steps(config.optim, total_steps) + patience * every >= total_steps:
        remarks.append(
            f"eval.patience={patience}, with an evaluation every {counted(every, 'step')}, is longer than the run of "
            f"{total_steps:,} and never ends it; set fewer, or a smaller eval.every_steps"
        )
    return remarks


def prompt_remarks(prompt_tokens: int, mean_tokens: float) -> list[str]:
    """A prompt that takes a large share of the LLM tokens of an average utterance, of which it is part."""
    if prompt_tokens < max(MANY_PROMPT_TOKENS, MOST_PROMPT_SHARE * mean_tokens):
        return []
    return [
        f"the prompt takes {prompt_tokens} of the {mean_tokens:.0f} LLM tokens of an average utterance "
        f"({prompt_tokens / mean_tokens:.0%}), and each costs as much as one of speech; write a shorter model.prompt, "
        f"such as {json.dumps(SHORT_TEMPLATE)}"
    ]


def rank_remarks(config: Config, ranks: int, longest_cost: int) -> list[str]:
    """What of the batch leaves ranks idle, with the value to set; a micro-batch must hold the longest utterance."""
    slots = decided(config.batch.micro_batches)
    if slots % ranks == 0:
        return []
    fitting = ranks * ceil(slots / ranks)
    tokens = ceil(max(longest_cost, decided(config.batch.tokens) * slots / fitting) / 10) * 10
    fault = "have nothing to do" if slots < ranks else "have one micro-batch less than the others, and wait,"
    return [
        f"{ranks - slots % ranks} of {ranks} ranks {fault} in every step, which has "
        f"{counted(slots, 'micro-batch', 'micro-batches')}; set batch.micro_batches={fitting} and batch.tokens={tokens}"
    ]
