"""The adapter trained on real speech. Begin with README.md. May import every folder but tests."""
