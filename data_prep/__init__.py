"""From a corpus to batches: importers, audio, shards and their index, the build, the audit, cached features.

Begin with build/build.py for writing and shards/reader.py for reading; utterance.py is what passes between them.
Imports model alone. Sub-packages may import those below them: inspect, features, rework, build, exporters, importers,
synth, recordings, shards, remote, audio, and the modules of this folder."""
