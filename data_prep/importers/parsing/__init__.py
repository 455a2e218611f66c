"""What importers share: options, files and lines, rows to utterances, places of recordings. Begin with importer.py,
then rows.py. May import recordings, audio and model, and no importer."""
