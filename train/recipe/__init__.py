"""The recipe: YAML and overrides (yaml.py) checked by pydantic (config.py), `auto` values, and what identifies a run.

Imports nothing else of train.
"""
