"""Tars and their index: tar.py writes and reads members, index.py is the contract ShardIndex, opening.py reads an index
and opens its tars, here or at an address, reader.py fills batches. May import remote and audio. Begin with index.py."""
