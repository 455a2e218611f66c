"""From utterances to a dataset directory. Begin with build.py: sizes, assignment to shards, writing, finishing.
May import exporters, importers, recordings, shards and audio."""
