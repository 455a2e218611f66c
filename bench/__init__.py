"""Speed and cost against baselines: one file per goal. Begin with __main__.py. May import every folder but tests."""
