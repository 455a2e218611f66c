"""Utterances end to end in one sequence: where each token stands (layout.py), attention inside each (packed.py)."""
