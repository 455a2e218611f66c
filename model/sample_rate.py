"""The one sample rate, in a module that imports nothing."""

SAMPLE_RATE = 16_000
"""Hz, of every HuBERT-family encoder, and so of all audio in shards and in a Batch."""
