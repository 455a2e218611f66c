"""Decoding by a vLLM server that has the LLM: it gets our prompt embeddings, and answers with tokens."""
