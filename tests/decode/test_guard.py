"""Loops, echoes and refusals are recognised, and speech is not taken for one."""

import pytest

from decode.guard import fault_of, is_echo, is_loop, is_refusal, loop_start
from model.prompt import DEFAULT_TEMPLATE

SPEECH = (
    "no no no", "No, no, no, no, no!", "very very very very good", "zero zero zero zero", "0 0 0 0 0 0", "ha ha ha ha",
    "well well", "don't you believe it don't you believe it don't you believe it", "ding dong ding dong ding dong",
    "row row row your boat gently down the stream merrily merrily merrily merrily", "hahahaha", "1000000000000", "",
    "\u54c8\u54c8\u54c8\u54c8", "one hundred and one two hundred and two three hundred and three four hundred and four",
)  # fmt: skip
LOOPS = (
    "the cat " * 10, "no " * 16, "I'm so glad you're here. " * 4, "it was " + "the birds sang, " * 5 + "and then",
    "." * 40, "ha" * 20, "\u54c8" * 16, "a way of life that we have to make, " * 4, "The cat the CAT " * 5,
    'this is the text you want: "this is the text you want:  this is the text you want. this is the text, you want: "',
)  # fmt: skip


@pytest.mark.parametrize("text", SPEECH)
def test_repetition_in_speech_is_not_a_loop(text):
    assert not is_loop(text)


@pytest.mark.parametrize("text", LOOPS)
def test_a_pattern_that_does_not_end_is_a_loop(text):
    assert is_loop(text)
    start = loop_start(text)
    assert start is not None and not is_loop(text[:start]) and text[:start].strip()


def test_a_loop_is_cut_after_its_first_round():
    text = "so " + "the birds were singing " * 6
    assert text[: loop_start(text)] == "so the birds were singing"


def test_an_echo_has_the_prompts_own_words():
    assert is_echo("the cat sat. Transcribe speech to text.", DEFAULT_TEMPLATE)
    assert not is_echo("transcribe the speech to a text", DEFAULT_TEMPLATE)
    chat = "<|im_start|>system\nYou are a helpful assistant<|im_end|><speech> Write it down, word by word.<|im_end|>"
    assert is_echo("well, write it down word by word", chat)
    assert not is_echo("you are a good assistant", chat)


def test_refusals_of_llms_are_recognised_and_apologies_are_not_refusals():
    """The first five begin answers of SmolLM2-135M-Instruct to speech through an untrained adapter."""
    refusals = (
        "I'm sorry for any confusion, but as a text-based AI, I don't have the capability to translate languages.",
        "I'm sorry for any confusion, but as a chatbot, I don't have the ability to translate text into speech.",
        "I'm sorry for any misunderstanding, but as a chatbot, I'm designed to assist with digital communication.",
        "I\u2019m sorry for any confusion, but as a chatbot designed to assist with text, I don't",
        "I'm sorry, but I can't assist with that.", "As an AI language model, I cannot hear.", "as an AI, I can't",
        "I'm just a language model", "Please provide the audio file that you'd like me to transcribe.",
        "I apologize, but I am unable to process audio", "Unfortunately, I cannot transcribe this",
    )  # fmt: skip
    speech = (
        "I'm sorry, but I can't come tonight.", "sorry, I can't hear the audio", "I'm sorry I can't help you with that",
        "as an AI researcher I disagree", "I am an assistant at the library", "please provide the recording by Friday",
        "I cannot assist with that", "I'm sorry for any confusion", "as an old friend of language models",
    )  # fmt: skip
    assert [text for text in refusals if not is_refusal(text)] == []
    assert [text for text in speech if is_refusal(text)] == []
    assert not is_refusal("please provide " + "audio b " * 100_000), "and answers of any length at once"


def test_a_loop_comes_before_the_other_faults():
    assert fault_of("As an AI language model, " * 5, DEFAULT_TEMPLATE) == "loop"
    assert fault_of("transcribe speech to text", DEFAULT_TEMPLATE) == "echo"
    assert fault_of("the cat sat on the mat", DEFAULT_TEMPLATE) == ""
