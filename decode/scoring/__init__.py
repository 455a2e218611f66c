"""How good transcripts are, from texts alone: error counts by group and normaliser, intervals, significance between two
systems, rates of loops and of words on silence, and the files that other tools read. Begin with counts.py. May import
data_prep and what it may; no model, no GPU."""
