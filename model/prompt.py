"""The words around the speech. The template is stored with the adapter: training and decoding read the same string."""

from typing import Any

from model.errors import UserError

SPEECH = "<speech>"
DEFAULT_TEMPLATE = "USER: <speech> Transcribe speech to text. ASSISTANT:"


class Prompt:
    """Token ids around the speech: `prefix_ids`, speech, `suffix_ids`, `target_ids(text)`, as the tokenizer makes them
    of the whole text, `USER: <speech> Transcribe ... ASSISTANT: the answer`."""

    def __init__(self, tokenizer: Any, template: str = DEFAULT_TEMPLATE) -> None:
        if template.count(SPEECH) != 1:
            raise UserError(f"model.prompt must hold {SPEECH} exactly once, it is {template!r}")
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
        begins = tokenizer.encode("a")[:1]
        self.prefix_ids = (begins if begins == [tokenizer.bos_token_id] else []) + self._ids(before)
        self.suffix_ids = self._ids(after.rstrip(" "))  # the space before the answer belongs to its first word
        if not self.suffix_ids:
            raise UserError(f"model.prompt must go on after {SPEECH} (the answer starts there), it is {template!r}")

    def target_ids(self, text: str) -> list[int]:
        """The answer's token ids, ending with EOS; the space that separates it from the prompt is part of it. `</s>` in
        a transcript is its four characters, not an end."""
        return [*self._ids(self._separator + text.strip(), split_special_tokens=True), self.eos_id]

    def decode(self, ids: list[int]) -> str:
        """The text of generated ids, without special tokens and outer spaces."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _ids(self, text: str, split_special_tokens: bool = False) -> list[int]:
        text = text.removeprefix(" ") if self._adds_space else text
        if not text:
            return []
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split_special_tokens))
