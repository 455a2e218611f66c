"""New dataset directories from finished ones: merged, resharded, in part, uploaded. Begin with copying.py. May import
build and everything below it."""
