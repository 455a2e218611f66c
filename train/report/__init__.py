"""What a run tells: metrics and sinks, Prometheus, trackers, validation, whether the LLM uses the audio."""
