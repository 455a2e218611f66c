"""Training recipes (YAML) and the demo. Begin with demo.py. May import every folder but tests."""
