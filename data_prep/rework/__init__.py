"""New dataset directories from finished ones: merged, resharded, parts of them, copied to object storage."""
