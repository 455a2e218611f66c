"""Imported last by the server that ranks are forked from: transformers compiles some 700 regular expressions, which
rename weights of old checkpoints, when the first model is opened. What is there then is left out of garbage collection,
which in every rank would walk over all of it, and so copy the pages that it shares with the server."""

import gc

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llama")
gc.collect()
gc.freeze()
