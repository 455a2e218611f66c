"""Looking at what is there: check.py reads every byte, audit/ judges it, stats.py counts, sample.py writes clips."""
