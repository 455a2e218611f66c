"""Audio: decoding and resampling, our own FLAC, cuts, truncated files, augmentation. Begin with decode.py; a new
augmentation goes into augment.py. May import the modules of data_prep itself and model."""
