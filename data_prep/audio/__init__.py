"""Recordings: decode.py opens and resamples any format; the others are containers, cuts, augmentation."""
