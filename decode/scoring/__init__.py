"""Scores transcripts from texts alone: error counts by group and normaliser, confidence intervals, significance between
two systems, rates of loops and hallucinations, and files for other tools. Start with counts.py. May import data_prep
and what it may; needs no model and no GPU."""

RESULTS, SCORE = "results.jsonl", "score.json"  # of a folder that `slam-asr score --out` wrote
