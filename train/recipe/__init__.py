"""The recipe: YAML read strictly into frozen sections (config.py), overrides, what `auto` means, what identifies a run.

Imports nothing else of train.
"""
