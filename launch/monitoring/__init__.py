"""Prometheus rules with their tests, an example configuration, and a Grafana dashboard: files, no code.
docs/cluster.md describes them; tests/cluster/test_prometheus.py checks them by promtool and a real Prometheus."""
