"""Tiny random models that open as real ones do: HuBERT and Llama of two layers each, a byte-level tokenizer."""

from pathlib import Path
from typing import Any

import torch

from model.adapters import AdapterSpec, build_adapter
from model.encoders import load_encoder
from model.llm import load_llm
from model.prompt import DEFAULT_TEMPLATE, Prompt
from model.slam_asr import SlamAsr
from model.weights import AdapterCard, save_adapter

ENCODER_DIM, LLM_DIM, STACK = 32, 48, 5
TEMPLATE = DEFAULT_TEMPLATE


def tiny_models(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Writes encoder and LLM (0.5 MB together) into `folder` and returns their folders; the same bytes every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _encoder(folder / "encoder"), _llm(folder / "llm")


def tiny_recogniser(folder: Path) -> tuple[SlamAsr, Path]:
    """A recogniser of tiny models in `folder`, untrained, and its adapter exported to `folder`/adapter as of step 7."""
    encoder_source, llm_source = map(str, tiny_models(folder))
    encoder, llm = load_encoder(encoder_source), load_llm(llm_source)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        adapter: Any = build_adapter(AdapterSpec("concat", STACK, 64, 0.0, encoder.dim, LLM_DIM))
        adapter.linear2.weight.mul_(30.0)  # so that the speech matters as much as the words around it
    card = AdapterCard(
        adapter.spec, encoder.fingerprint(), encoder_source, llm.fingerprint, llm_source, TEMPLATE, step=7
    )
    (folder / "adapter").mkdir()
    save_adapter(folder / "adapter", adapter.state_dict(), card)
    return SlamAsr(encoder, adapter, llm, Prompt(llm.tokenizer, TEMPLATE)).eval(), folder / "adapter"


def _encoder(folder: Path) -> Path:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = HubertConfig(
        hidden_size=ENCODER_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,  # 16 channels each: fewer are not computed in bfloat16 on a CPU
        do_stable_layer_norm=True,
    )
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def _llm(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = _tokenizer(folder)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=LLM_DIM,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.5,  # the default 0.02 makes near-ties of all logits
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> int:
    """Saves a BPE tokenizer over the whole byte alphabet and returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["USER: Transcribe speech to text. ASSISTANT: the cat sat on a mat"] * 10, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])  # pyright: ignore
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    wrapped.save_pretrained(folder)
    return tokenizer.get_vocab_size()
