"""The recipe: YAML and overrides (yaml.py) checked by pydantic (config.py), `auto` values, and what identifies a run.

Imports nothing else of train. Begin with config.py; a key that does not affect the weights is also in identity.py."""
