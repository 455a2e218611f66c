"""Judgements of a dataset by stated rules (rules.py), with their worst examples; audit.py runs them all."""
