"""How model/stand_in was trained. Begin with training.py. May import every folder but tests."""
