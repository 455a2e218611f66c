"""Inspecting shard directories: check.py reads every byte, audit/ judges, stats.py counts, sample.py writes clips."""
