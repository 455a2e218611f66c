"""Which layers of an encoder are read: the last, one, or the mean of several."""

import re
from dataclasses import dataclass

from model.errors import UserError

FORM = re.compile(r"[0-9]{1,9}|mean(:[0-9]{1,9}-[0-9]{1,9})?")


@dataclass(frozen=True)
class Layers:
    """Transformer layers `first` to `last`, counted from 1; several stand for the mean of their outputs."""

    first: int
    last: int

    @property
    def name(self) -> int | str:
        """The layer's number, or `mean:6-12`, as in a fingerprint."""
        return f"mean:{self.first}-{self.last}" if self.first < self.last else self.last


def layers_in_frame(name: int | str) -> int:
    """How many layers' outputs lie side by side in a frame, by the layer's name in a fingerprint: 12 for
    `weighted:1-12`, else 1."""
    kind, _, numbers = str(name).partition(":")
    if kind != "weighted":
        return 1
    first, last = map(int, numbers.split("-"))
    return last - first + 1


def read_layers(asked: int | str | None, depth: int) -> Layers:
    """`asked` of an encoder with `depth` layers: None (the last), 9, "9", "mean" (of all) or "mean:6-12". UserError for
    another form, and for layers that do not exist."""
    text = str(depth if asked is None else asked)
    if not FORM.fullmatch(text):
        raise UserError(f"encoder layer {text!r} is of no known form; give a number, mean, or mean:FIRST-LAST")
    numbers = [int(number) for number in re.findall("[0-9]+", text)] or [1, depth]
    first, last = numbers[0], numbers[-1]
    if not 1 <= first <= last <= depth:
        raise UserError(f"encoder layer {text} does not exist; this encoder has layers 1 to {depth}")
    if len(numbers) == 2 and first == last and depth > 1:
        raise UserError(f"encoder layer {text} is the mean of one; write {last}")
    return Layers(first, last)
