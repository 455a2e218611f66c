"""What a run reports: metrics and their sinks, Prometheus, trackers, validation, whether the LLM uses the audio."""
