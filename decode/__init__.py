"""Speech to text with a trained adapter: generate.py searches, dataset.py and files.py feed it, score.py counts errors.

Imports data_prep and model."""
