"""Judges a dataset by stated rules, with the worst examples of each. Begin with rules.py, where a rule is added;
audit.py runs all. May import inspect and what inspect may."""
