"""Transcribe speech from Python with a trained adapter."""
