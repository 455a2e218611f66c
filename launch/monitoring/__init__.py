"""Prometheus rules, their tests, an example configuration and a Grafana dashboard: files, no code."""
