"""One self-contained HTML page about one scoring, or about two systems side by side. Begin with page.py. May import
decode.scoring and what it may."""
