"""Audio itself: decode.py opens and resamples any format, the others are containers, cuts, silence, augmentation."""
