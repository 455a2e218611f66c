"""The words around the speech. The template lives in the adapter's own file; training and decoding read the same
string."""

from typing import Any

from model.errors import UserError

SPEECH = "<speech>"
DEFAULT_TEMPLATE = "USER: <speech> Transcribe speech to text. ASSISTANT:"


class Prompt:
    """Token ids before the speech, after it, and of the answer.

    `prefix_ids + [speech] + suffix_ids + target_ids(text)`.
    """

    def __init__(self, tokenizer: Any, template: str = DEFAULT_TEMPLATE) -> None:
        if template.count(SPEECH) != 1:
            raise UserError(f"model.prompt must hold {SPEECH} exactly once, it is {template!r}")
        if tokenizer.eos_token_id is None:
            raise UserError("the LLM's tokenizer has no end-of-sequence token; the adapter could not learn to stop")
        self.tokenizer = tokenizer
        self.template = template
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # Llama's tokenizer puts a space before every text it is given; one that is already there would be doubled.
        first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0]
        self._adds_space = first.startswith("\u2581")
        before, after = template.split(SPEECH)
        self.prefix_ids = self._first_ids(before)
        self.suffix_ids = self._ids(after)
        if not self.suffix_ids:
            raise UserError(f"model.prompt must go on after {SPEECH} (the answer starts there), it is {template!r}")

    def target_ids(self, text: str) -> list[int]:
        """The answer's token ids, ending with EOS; the space that separates it from the prompt is part of it."""
        return [*self._ids(" " + text.strip()), self.eos_id]

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens dropped, outer spaces stripped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _ids(self, text: str) -> list[int]:
        text = text.removeprefix(" ") if self._adds_space else text
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _first_ids(self, text: str) -> list[int]:
        """The start of the sequence, with BOS if this tokenizer uses one."""
        bos = self._bos_id()
        return self._ids(text) if bos is None else [bos, *self._ids(text)]

    def _bos_id(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        return bos if bos is not None and self.tokenizer.encode("a")[0] == bos else None
