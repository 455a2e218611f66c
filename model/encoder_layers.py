"""Which encoder layers the frames are made of: the last, another one, the mean of several, or several concatenated.

`weighted` layers are concatenated in a frame, in order; the adapter learns their weighted sum (as in ELMo, arXiv
1802.05365, and SUPERB, arXiv 2105.01051)."""

import re
from dataclasses import dataclass
from typing import Literal

from model.errors import UserError

FORM = re.compile(r"[0-9]{1,9}|(?:mean|weighted)(?::[0-9]{1,9}-[0-9]{1,9})?")


@dataclass(frozen=True)
class Layers:
    """Transformer layers `first` to `last`, counted from 1."""

    first: int
    last: int
    kind: Literal["mean", "weighted"] = "mean"
    """How several layers are combined: their mean, or their outputs concatenated."""

    @property
    def several(self) -> bool:
        return self.first < self.last

    @property
    def name(self) -> int | str:
        """The layer's number, `mean:6-12` or `weighted:1-12`, as in a fingerprint."""
        return f"{self.kind}:{self.first}-{self.last}" if self.several else self.last


def read_layers(requested: int | str | None, depth: int) -> Layers:
    """The requested layers of an encoder with `depth` layers: None (the last), 9, "9", "mean" or "weighted" (of all),
    "mean:6-12" or "weighted:6-12". UserError for another form, and for layers that do not exist."""
    text = str(depth if requested is None else requested)
    if not FORM.fullmatch(text):
        forms = "give a number, mean, or mean:FIRST-LAST, or the same with weighted"
        raise UserError(f"encoder layer {text!r} is not valid; {forms}")
    numbers = [int(number) for number in re.findall("[0-9]+", text)] or [1, depth]
    first, last = numbers[0], numbers[-1]
    if not 1 <= first <= last <= depth:
        raise UserError(f"encoder layer {text} does not exist; this encoder has layers 1 to {depth}")
    kind = "weighted" if text.startswith("weighted") else "mean"
    if len(numbers) == 2 and first == last and depth > 1:
        raise UserError(
            f"encoder layer {text} is the {'mean' if kind == 'mean' else 'weighted sum'} of one; write {last}"
        )
    return Layers(first, last, kind)


def layers_in_frame(name: int | str) -> int:
    """Number of layers concatenated in a frame, from the layer's name in a fingerprint: 12 for `weighted:1-12`, 1 for
    others."""
    kind, _, numbers = str(name).partition(":")
    if kind != "weighted":
        return 1
    first, last = map(int, numbers.split("-"))
    return last - first + 1
