"""Speech to text with a trained adapter. Begin with generate.py, the search; dataset.py and files.py feed it, score.py
counts word errors (a new score goes there), export.py copies an adapter. Imports data_prep and model."""
