"""The prompt's token ids against the tokenisation of the whole text, for the tokenizers that LLMs have."""

import json
from typing import Any

import pytest

from model.errors import UserError
from model.prompt import CHAT_USER, DEFAULT_TEMPLATE, Prompt

TEXTS = ["the cat sat", "It's 12:30, isn't it?", "é à la carte 北京", "a"]
TOKENIZERS = ["byte-level", "byte-level with BOS", "metaspace with BOS", "prepend with BOS"]
TEMPLATES = [
    DEFAULT_TEMPLATE,
    "<speech> What was said? ",
    "[INST] <speech> Transcribe [/INST]\n",
    "Listen.\n<speech>\nNow write:",
]


def tokenizer(name: str):
    """GPT-2's and Qwen's; Llama 3's; Llama 2's as transformers 5 writes it; TinyLlama's and Vicuna's tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    alphabet = []
    if name.startswith("byte-level"):
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
        made.decoder = decoders.ByteLevel()  # pyright: ignore
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(parts)  # pyright: ignore
        made.pre_tokenizer = pre_tokenizers.Metaspace(split=True)  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    words = " ".join([*TEMPLATES, *TEXTS[:2]]).replace("\n", " ").split(" ")
    made.train_from_iterator([" ".join(pair) for pair in zip(words, words[1:], strict=False)] * 9, trainer)
    if not alphabet:
        _fall_back_to_bytes(made)
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)  # pyright: ignore
    if name.startswith("prepend"):
        space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        made.normalizer, made.pre_tokenizer = normalizers.Sequence(space), None  # pyright: ignore
    if name.endswith("BOS"):
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _fall_back_to_bytes(made) -> None:
    """What the vocabulary cannot write becomes tokens <0x00> to <0xFF>, as in sentencepiece."""
    from tokenizers import models

    model = json.loads(made.to_str())["model"]
    vocabulary = model["vocab"] | {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    made.model = models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")


@pytest.fixture(scope="module", params=TOKENIZERS)
def named(request):
    return request.param, tokenizer(request.param)


@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_are_those_of_the_whole_text(named, template):
    name, words = named
    prompt = Prompt(words, template)
    before, after = template.split("<speech>")
    bos = [0] if name.endswith("BOS") else []
    assert prompt.prefix_ids == bos + (words.encode(before, add_special_tokens=False) if before else [])
    for text in TEXTS:
        whole = after + (text if template.endswith(("\n", " ")) else f" {text}")
        ids = prompt.suffix_ids + prompt.target_ids(text)
        assert ids[-1] == prompt.eos_id and ids.count(prompt.eos_id) == 1
        if name.startswith("byte-level"):
            assert ids[:-1] == words.encode(whole, add_special_tokens=False)
        elif not template.endswith("\n"):  # after a line's end these tokenizers cannot leave their space out
            assert ids[:-1] == words.encode(whole.removeprefix(" "), add_special_tokens=False)


def test_an_answer_decodes_to_its_text(named):
    prompt = Prompt(named[1])
    for text in TEXTS:
        assert prompt.decode(prompt.target_ids(text)) == prompt.decode(prompt.target_ids(f"  {text}\n")) == text
    assert prompt.target_ids("") == prompt.target_ids(" \n") == [prompt.eos_id]


def test_a_transcript_cannot_hold_special_tokens(named):
    prompt = Prompt(named[1])
    ids = prompt.target_ids("stop </s> here <s>")
    assert ids.count(prompt.eos_id) == 1 and 0 not in ids
    assert prompt.decode(ids) == "stop </s> here <s>"
    assert Prompt(named[1], "one</s> <speech> two").prefix_ids.count(prompt.eos_id) == 1  # a template may


@pytest.mark.parametrize("template", ["no mark", "<speech> and <speech> again", "USER: <speech>", "USER: <speech>  "])
def test_a_template_that_cannot_work_is_refused(named, template):
    with pytest.raises(UserError, match="model.prompt must"):
        Prompt(named[1], template)


def test_a_tokenizer_without_an_end_is_refused():
    words = tokenizer("byte-level")
    words.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        Prompt(words)


TURNS = (
    "{% for turn in messages %}"
    "{{ '<|im_start|>' + turn.role + '\n' + turn.content | trim + '<|im_end|>\n' }}{% endfor %}"
)
CHATS = {  # chat templates as of the families named, shortened; each with the tokenizer that goes with it
    "ChatML": (
        "byte-level",
        f"{TURNS}{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    ),
    "Llama 3": (
        "byte-level with BOS",
        "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ '<|head|>system<|/head|>\n\nToday Date: ' + date_string + '\n\n' }}"
        "{% for turn in messages %}{{ '<|head|>' + turn.role + '<|/head|>\n\n' + turn.content | trim + '<|eot|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}",
    ),
    "Gemma": (
        "byte-level with BOS",
        "{{ bos_token }}"
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        f"{TURNS}{{% if add_generation_prompt %}}{{{{ '<|im_start|>model\n' }}}}{{% endif %}}",
    ),
    "Mistral": (
        "metaspace with BOS",
        "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'user' %}{{ '[INST] ' + turn.content + ' [/INST]' }}{% endif %}{% endfor %}",
    ),
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>"]


def chatting(family: str):
    name, template = CHATS[family]
    words = tokenizer(name)
    words.add_special_tokens({"additional_special_tokens": SPECIAL})
    words.chat_template = template
    return words


@pytest.mark.parametrize("user", [None, "Listen:\n<speech> Transcribe.", "Listen to <speech> and write [it] down"])
@pytest.mark.parametrize("family", CHATS)
def test_a_chat_prompt_is_what_the_tokenizer_makes_of_the_turn_around_the_speech(family, user):
    words = chatting(family)
    prompt = Prompt(words, "chat", user)
    marked = chatting(family)
    marked.add_special_tokens({"additional_special_tokens": [*SPECIAL, "<speech>"]})
    turns = [{"role": "user", "content": user or CHAT_USER}]
    options = {"add_generation_prompt": True, "enable_thinking": False, "date_string": "26 Jul 2024"}
    ids: Any = marked.apply_chat_template(turns, return_dict=False, **options)
    place = ids.index(marked.convert_tokens_to_ids("<speech>"))
    assert (prompt.prefix_ids, prompt.suffix_ids) == (ids[:place], ids[place + 1 :])
    assert prompt.prefix_ids[:1] == [0] != prompt.prefix_ids[1:2] if family != "ChatML" else 0 not in prompt.prefix_ids
    stored = Prompt(words, prompt.template)  # as from an adapter's card
    assert (stored.prefix_ids, stored.suffix_ids, stored.template) == (ids[:place], ids[place + 1 :], prompt.template)


def test_a_system_text_stands_where_the_template_puts_it_or_is_refused():
    system = "You write down speech."
    text = Prompt(chatting("ChatML"), "chat", None, system).template
    assert text.startswith(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<speech> Transcribe")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    with pytest.raises(UserError, match=r"chat \(System role not supported\); leave model.chat_system out"):
        Prompt(chatting("Gemma"), "chat", None, system)
    with pytest.raises(UserError, match=f"leaves out model.chat_system '{system}'; put its text"):
        Prompt(chatting("Mistral"), "chat", None, system)


@pytest.mark.parametrize(
    "template, message",
    [
        (None, "the LLM's tokenizer has no chat template; write the prompt out, such as 'USER: <speech>"),
        (
            "{{ 'hello' }}",
            "must contain <speech> of model.chat_user '<speech> .* exactly once, it gives 'hello'",
        ),
        ("{{ messages[0].content * 2 }}", "exactly once"),
        ("{{ messages[5].content.x }}", "refuses model.prompt chat .*; write the prompt out"),
        ("{% if", "refuses model.prompt chat"),
    ],
)
def test_a_chat_template_that_cannot_work_is_refused_in_one_line(template, message):
    words = tokenizer("byte-level")
    words.chat_template = template
    with pytest.raises(UserError, match=message) as caught:
        Prompt(words, "chat")
    assert "\n" not in str(caught.value)
