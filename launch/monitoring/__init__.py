"""Prometheus rules, a Grafana dashboard, and `slam-asr watch`."""
