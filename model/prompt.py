"""The prompt around the speech. The template is stored with the adapter: training and decoding use the same string.

A template is literal text, special tokens included. `chat` stands for the text that the LLM's own chat template makes
of a user turn with the speech in it; that text is stored, so that decoding needs no chat template."""

from datetime import datetime
from typing import Any

from model.errors import UserError

SPEECH = "<speech>"
DEFAULT_TEMPLATE = "USER: <speech> Transcribe speech to text. ASSISTANT:"
SHORT_TEMPLATE = "Speech: <speech>\nTranscript:"
"""About half as many tokens, for utterances of a few seconds."""
CHAT, CHAT_USER = "chat", "<speech> Transcribe speech to text."
SOME_DAY = datetime(2024, 7, 26)
"""The date for chat templates that insert today's date (Llama 3's own default), so that the prompt never changes."""


class Prompt:
    """Token ids around the speech: `prefix_ids`, speech, `suffix_ids`, `target_ids(text)`, the same as if the whole
    text was tokenised, `USER: <speech> Transcribe ... ASSISTANT: the answer`. `template` is the literal text."""

    def __init__(
        self,
        tokenizer: Any,
        template: str = DEFAULT_TEMPLATE,
        chat_user: str | None = None,
        chat_system: str | None = None,
    ) -> None:
        """`chat_user` (default: CHAT_USER) and `chat_system` (default: none) are the turns of the template `chat`.
        UserError for a template or a tokenizer that cannot be used."""
        if template == CHAT:
            template = chat_text(tokenizer, CHAT_USER if chat_user is None else chat_user, chat_system)
        if template.count(SPEECH) != 1:
            raise UserError(f"model.prompt must contain {SPEECH} exactly once, it is {template!r}")
        if tokenizer.eos_token_id is None:
            raise UserError("the LLM's tokenizer has no end-of-sequence token; the adapter could not learn to stop")
        self.tokenizer, self.template = tokenizer, template
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # Llama's tokenizer puts a space before every text; one that is already there would be doubled.
        first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0]
        self._adds_space = first.startswith("\u2581")
        before, after = template.split(SPEECH)
        self._separator = "" if template.endswith("\n") else " "
        first_ids = tokenizer.encode("a")[:1]
        begins = first_ids == [tokenizer.bos_token_id]
        after_bos = after.removeprefix(tokenizer.bos_token) if begins else after  # SLAM-LLM puts the speech before BOS
        self.prefix_ids = self._ids(before)
        if begins and after_bos == after and first_ids != self.prefix_ids[:1]:  # a chat template may begin with BOS
            self.prefix_ids = first_ids + self.prefix_ids
        self.suffix_ids = self._ids(after_bos.rstrip(" "))  # the space before the answer belongs to its first word
        self.suffix_ids = (first_ids if after_bos != after else []) + self.suffix_ids
        if not self.suffix_ids:
            raise UserError(f"model.prompt must not end with {SPEECH} (the answer starts there), it is {template!r}")

    def target_ids(self, text: str) -> list[int]:
        """The answer's token ids, ending with EOS; the space that separates it from the prompt is part of it. EOS alone
        for an empty text. A `</s>` in a transcript is tokenised as ordinary characters, not as EOS."""
        text = text.strip()
        return [*(self._ids(self._separator + text, split_special_tokens=True) if text else []), self.eos_id]

    def decode(self, ids: list[int]) -> str:
        """The text of generated ids, without special tokens and outer spaces."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _ids(self, text: str, split_special_tokens: bool = False) -> list[int]:
        text = text.removeprefix(" ") if self._adds_space else text
        if not text:
            return []
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split_special_tokens))


def chat_text(tokenizer: Any, user: str, system: str | None = None) -> str:
    """The text that a tokenizer's chat template makes of a system message (if any) and a user turn, up to where the
    answer begins, without thinking. UserError if there is no template, or if it refuses or drops a turn, or repeats the
    speech."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "model.prompt is chat, but the LLM's tokenizer has no chat template; write the prompt out, such as "
            f"{DEFAULT_TEMPLATE!r}"
        )
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = tokenizer.apply_chat_template(
            [*turns, {"role": "user", "content": user}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string=SOME_DAY.strftime("%d %b %Y"),
            strftime_now=SOME_DAY.strftime,
        )
    except (TemplateError, ValueError, TypeError) as error:  # raised by the template on purpose, or errors in it
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "leave model.chat_system out, or write the prompt out" if system else "write the prompt out"
        raise UserError(f"the LLM's chat template refuses model.prompt chat ({reason}); {advice}") from None
    if system and system.strip() not in text:
        raise UserError(
            f"the LLM's chat template leaves out model.chat_system {system!r}; put its text into model.chat_user"
        )
    if text.count(SPEECH) != 1:
        raise UserError(
            f"the LLM's chat template must contain {SPEECH} of model.chat_user {user!r} exactly once, it gives "
            f"{text!r}; write the prompt out"
        )
    return text
