"""What a run reports: metrics and their sinks, Prometheus, trackers, validation, whether the LLM uses the audio. Begin
with metrics.py; figures of validation are in evaluate.py. May import engine, data, liveness, recipe and dist."""
