"""Corpora as other toolkits write them: Kaldi, NeMo, WeNet, SLAM-LLM, lhotse. Begin with nemo.py; register a new one in
IMPORTERS. May import what importers may."""
