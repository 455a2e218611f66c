"""What every bench file gives back: `def run(scale: float = 1.0) -> list[Goal]`, `scale` being how much is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """One figure that was measured, and what it is held against."""

    number: str
    """Of the goal: "6" or, where one has several figures, "6a"."""
    name: str
    figure: float
    """The median over the repeats."""
    goal: float
    better: Literal["higher", "lower"]
    unit: str
    """"x" for a ratio, "CPU-s/audio-h" ..."""
    spread: str
    """How far the repeats lie apart, as "2.1 to 2.4"."""
    note: str
    """What was compared with what, in one line."""

    @property
    def met(self) -> bool:
        return self.figure >= self.goal if self.better == "higher" else self.figure <= self.goal

    def line(self) -> str:
        """For a terminal: number, verdict, name, figure against goal, spread, note."""
        sign = ">=" if self.better == "higher" else "<="
        figures = f"{self.figure:.3g} {self.unit} ({self.spread}), goal {sign} {self.goal:g}"
        return f"{self.number:4} {'met' if self.met else 'MISSED':6} {self.name}: {figures}; {self.note}"
