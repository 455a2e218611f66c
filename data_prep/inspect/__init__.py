"""Inspecting shard directories: check.py reads every byte, audit/ judges, stats.py counts, sample.py writes clips.

May import everything else in data_prep. Begin with check.py; for a new rule of the audit with audit/rules.py."""
