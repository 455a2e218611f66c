"""Shared by importers: options, files and lines, rows to utterances, keys, places of recordings."""
