"""Synthetic speech, to try, test and show everything where there is no corpus: `corpus.write_corpus` makes one.

sentences.py draws the texts, voices.py lists the voices of each split, espeak.py speaks, corpus.py writes files.
"""
