"""Writes what a training produced as files for other places: adapters to share, merged LLMs, model cards. Begin with
adapter.py."""
