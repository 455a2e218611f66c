"""Corpora as other toolkits write them: Kaldi, NeMo, WeNet, SLAM-LLM, lhotse."""
