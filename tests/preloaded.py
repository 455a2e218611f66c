"""Imported last by the server from which ranks are forked: preloads what transformers does with the first model, the
compilation of some 700 regular expressions for old checkpoints. Existing objects are then excluded from garbage
collection, which in every rank would touch, and so copy, the pages shared with the server."""

import gc

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llama")
gc.collect()
gc.freeze()
