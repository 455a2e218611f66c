"""Opening pretrained models: a folder, the Hugging Face cache or the hub, strictly, with one-line errors.

Begin with pretrained.py. Imports model.errors and model.files alone.
"""
