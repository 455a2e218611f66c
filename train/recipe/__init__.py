"""The recipe: YAML and overrides (yaml.py) checked by pydantic (config.py), `auto` values, and what identifies a run.

Imports nothing else of train.

Begin with config.py; a key without influence on the weights is also listed in identity.py."""
