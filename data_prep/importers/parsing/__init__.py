"""What several importers share: rows, lines, options, keys, places of recordings."""
