"""Tars and their index: tar.py writes and reads members, index.py is the contract ShardIndex, files.py reads it,
opening.py opens a directory here or at an address, reader.py fills batches. May import remote and audio.
"""
