"""Train the tiny Llama (1.9 M parameters) and its tokenizer: `python -m recipes.stand_in.llm --out ... --work ...`.

An adapter alone can connect a frozen encoder to a frozen LLM only if the LLM already knows how to write down what
stands in its context, as a chat LLM does. A plain language model of this size does not. It is taught here from text:

1. A text is spelled in characters along a clock of about 80 ms each, and the characters that fall into one 100 ms
   frame are averaged into one embedding (`spelling`): that is where speech embeddings will stand.
   Characters are corrupted, silent frames come between, and the embeddings are blurred and made noisy.
2. The prompt around it is the one of SLAM-ASR (arXiv 2402.08846) and the answer is the text; the loss is on the answer.
3. Beside these, clean copies (the text itself in place of speech) and plain text.

Phrases of one to three words come first: copying emerges there within minutes, and whole sentences follow from it.
"""

import argparse
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_prep.synth import sentences
from recipes.stand_in.spelling import AFTER_SPEECH, BEFORE_SPEECH, BOS, EOS, IGNORED, PAD, Spelling, collate
from recipes.stand_in.training import Schedule, train

VOCABULARY = 900
PHRASE_STEPS, PHRASE_BATCH, SENTENCE_BATCH = 700, 48, 20


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Train the tiny Llama and its tokenizer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model in save_pretrained format")
    parser.add_argument("--work", type=Path, required=True, help="folder for the state to resume from")
    parser.add_argument("--steps", type=int, default=3200, help=f"updates, the first {PHRASE_STEPS} on phrases")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(config(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    spelling = Spelling(tokenizer)
    train(
        model,
        lambda step: batch_loss(model, spelling, step),
        Schedule(steps=args.steps, peak=2e-3, last=1e-4),
        args.work / "llm.safetensors",
        lambda: export(model, tokenizer, args.out),
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 900 pieces learned from the sentences: lossless for any text, `<s>` first as Llama has it."""
    rng = random.Random(0)
    texts = [" " + sentences.draw(rng, held_out=False, random_share=0.2) for _ in range(20_000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],  # PAD, BOS, EOS
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts + [BEFORE_SPEECH, AFTER_SPEECH] * 1000, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Width 192, 4 layers, 6 heads, feed-forward 512, tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def batch_loss(model: LlamaForCausalLM, spelling: Spelling, step: int) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of batch `step`, in bfloat16."""
    examples = [spelling.example(text, random.Random(f"{step} {text}")) for text in texts_of(step)]
    embeddings, labels = collate(model.model.embed_tokens.weight, examples, torch.Generator().manual_seed(step))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state  # [B, S, D]
        logits = model.lm_head(hidden[labels != IGNORED])  # [answers, V]: only where there is something to learn
    return torch.nn.functional.cross_entropy(logits.float(), labels[labels != IGNORED])


def texts_of(step: int) -> list[str]:
    """The texts of batch `step`, of similar length: eight batches are drawn together and cut from their sorted row."""
    phrases = step < PHRASE_STEPS
    size = PHRASE_BATCH if phrases else SENTENCE_BATCH
    rng = random.Random(f"texts {step // 8} {phrases}")
    if phrases:
        texts = [sentences.word_string(rng, 1, 3) for _ in range(8 * size)]
    else:
        texts = [sentences.draw(rng, held_out=False, random_share=0.3) for _ in range(8 * size)]
    place = rng.sample(range(8), 8)[step % 8]
    return sorted(texts, key=len)[place * size : (place + 1) * size]


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write model (fp16 safetensors), tokenizer and generation settings to `out`."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
