"""Writes a recogniser as a folder that transformers opens in any environment: `slam-asr export --format hf`. Begin with
export.py; modeling_slam_asr.py is the code in such a folder that transformers runs."""
