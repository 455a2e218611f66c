"""From utterances to a dataset directory. build.py: sizes, assignment to shards, writing by processes, index.

May import importers, recordings, shards and audio.
"""
