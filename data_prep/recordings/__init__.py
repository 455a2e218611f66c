"""Where a recording lies and how it is opened: a file, part of an archive, a Parquet row, a pipe, an address. Begin
with open.py. May import shards, remote and audio."""
