"""Imports adapters that other toolkits trained. Begin with adapter.py."""
