"""Models of random weights, and speech without meaning: what the time of a step can be measured on.

The toys keep the proportions of real pairs at a size for one CPU core: B is HuBERT-XL with TinyLlama by share of work,
C is HuBERT-XL with a 7B LLM, and A has a vocabulary so large that the LLM's head leads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.lengths import CHARACTERS_PER_TOKEN, Lengths
from model.adapters import AdapterSpec, build_adapter
from model.encoders import load_encoder
from model.llm import embedding_dim, load_llm
from model.prompt import DEFAULT_TEMPLATE, Prompt
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [f"{a}{b}{c}" for a in LETTERS[::4] for b in LETTERS[1::8] for c in LETTERS[2::8]]
"""Three letters and the space before them: one token of four characters, as English has."""


@dataclass(frozen=True)
class Toy:
    """A pair of models."""

    encoder: dict[str, Any]
    llm: dict[str, Any]
    hidden: int
    """Width of the adapter."""


def _encoder(width: int, layers: int, conv: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(4, width // 80),
        "intermediate_size": 4 * width,
        "conv_dim": (conv,) * 7,
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    }


def _llm(width: int, layers: int, vocabulary: int, **more: int) -> dict[str, Any]:
    heads = max(4, width // 128)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "vocab_size": vocabulary, "num_attention_heads": heads}
    return {**sizes, "num_key_value_heads": heads, "intermediate_size": 11 * width // 4 // 16 * 16, **more}


TOYS = {
    "A": Toy(_encoder(256, 4, 128), _llm(256, 4, 32_000), 256),
    "B": Toy(_encoder(256, 4, 64), _llm(256, 4, 1000), 256),
    "C": Toy(_encoder(256, 4, 64), _llm(512, 8, 1000), 512),
    "tiny": Toy(_encoder(32, 2, 16), _llm(64, 2, 1000), 64),
    "TinyLlama": Toy(
        _encoder(1280, 48, 512),
        _llm(2048, 22, 32_000, num_attention_heads=32, num_key_value_heads=4, intermediate_size=5632),
        2048,
    ),
    "7B": Toy(_encoder(1280, 48, 512), _llm(4096, 32, 32_000, intermediate_size=11_008), 2048),
}
"""The last two have the shapes of HuBERT-XL with TinyLlama 1.1B and with Llama 2 7B."""


def configs(toy: Toy) -> tuple[Any, Any]:
    """The transformers configurations of encoder and LLM."""
    from transformers import HubertConfig, LlamaConfig

    spread = 0.08 if toy.llm["hidden_size"] <= 512 else 0.02  # wide enough that the loss depends on what is heard
    llm = LlamaConfig(**toy.llm, bos_token_id=0, eos_token_id=1, pad_token_id=2, initializer_range=spread)
    groups = min(16, toy.encoder["hidden_size"] // 16)  # of fewer than 16 channels CPUs do not compute bfloat16
    return HubertConfig(**toy.encoder, num_conv_pos_embeddings=128, num_conv_pos_embedding_groups=groups), llm


def write_models(toy: Toy, folder: Path) -> Path:
    """Saves `encoder` and `llm` of random weights into `folder`, the same ones every time; returns it."""
    from transformers import HubertModel, LlamaForCausalLM, Wav2Vec2FeatureExtractor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    encoder, llm = configs(toy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        HubertModel(encoder).save_pretrained(folder / "encoder")
        LlamaForCausalLM(llm).save_pretrained(folder / "llm")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / "encoder")
    make_tokenizer().save_pretrained(folder / "llm")
    return folder


def open_recogniser(folder: Path, hidden: int, dtype: str = "float32", device: Any = "cpu") -> SlamAsr:
    """The models in `folder`, opened as any are, with an adapter that is the same every time."""
    encoder = load_encoder(str(folder / "encoder"), dtype=dtype, device=device)
    llm = load_llm(str(folder / "llm"), dtype=dtype, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = build_adapter(AdapterSpec("concat", 5, hidden, 0.0, encoder.dim, embedding_dim(llm.model)))
    return SlamAsr(encoder, adapter, llm, Prompt(llm.tokenizer, DEFAULT_TEMPLATE)).to(device)


def make_tokenizer() -> Any:
    """A byte-level BPE to which each of WORDS, and each word of the prompt, is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{DEFAULT_TEMPLATE} {' '.join(WORDS)}"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@dataclass(frozen=True)
class Spoken:
    """One utterance of noise, or its frames, and its transcript."""

    seconds: float
    text: str
    targets: list[int]
    wave: Tensor
    """float32 [N], 16 kHz."""
    frames: Tensor | None = None
    """[T, D], cached."""


def make_speech(lengths: Lengths, prompt: Prompt, seed: int) -> list[Spoken]:
    """Utterances of these lengths."""
    random = np.random.default_rng(seed)
    spoken = []
    for seconds, characters in zip(lengths.seconds.tolist(), lengths.characters.tolist(), strict=True):
        text = make_text(characters, random)
        wave = random.standard_normal(int(seconds * SAMPLE_RATE), np.float32) * 0.1
        spoken.append(Spoken(seconds, text, prompt.target_ids(text), torch.from_numpy(wave)))
    return spoken


def make_text(characters: int, random: np.random.Generator) -> str:
    """Words of about so many characters together."""
    return " ".join(
        WORDS[i] for i in random.integers(len(WORDS), size=max(1, round(characters / CHARACTERS_PER_TOKEN)))
    )
