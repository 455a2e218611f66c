"""Where a recording lies and how it is opened: a file, a stretch of an archive, a Parquet row, a pipe, an address."""
