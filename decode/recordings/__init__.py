"""Transcripts of recordings of any length: read in blocks, split at silences, decoded, written as text and captions.
Begin with files.py. May import what decode may, not scoring or report."""
