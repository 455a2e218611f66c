"""The encoder's frames, computed once by any number of ranks and kept in shards of their own; begin with build.py.
May import rework, build, shards and audio."""
