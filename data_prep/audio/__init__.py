"""Recordings: decode.py opens and resamples any format; the others are truncation, cuts, augmentation."""
