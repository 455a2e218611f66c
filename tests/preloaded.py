"""Imported once by the server that ranks are forked from: transformers compiles some 700 regular expressions, which
rename weights of old checkpoints, when the first model is opened."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llama")
