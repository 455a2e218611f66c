"""Synthetic speech, for trying, testing and showing everything where there is no corpus and no network.

`write_corpus` makes a corpus out of nothing; `VOICES` says who speaks in which split. The parts are `sentences` (what
is said), `espeak` (saying it), `augment` (roughening it) and `corpus` (files).
"""

from data_prep.synth.corpus import write_corpus
from data_prep.synth.voices import VOICES

__all__ = ["VOICES", "write_corpus"]
