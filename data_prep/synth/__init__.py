"""Synthetic speech, to try, test and show everything where there is no corpus: `corpus.write_corpus` makes one.

sentences.py draws the texts, espeak.py speaks, corpus.py lists the voices of each split and writes
files; silence.py writes sounds in which nothing is said.
Begin with corpus.py. May import recordings, shards, remote and audio."""
