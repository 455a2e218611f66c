"""Transcripts of recordings of any length: read in blocks, split at silences, decoded, written as text and captions.
Start with files.py. May import what decode may, except scoring and report."""
