"""A self-contained HTML page on one scoring, or on two systems side by side. Start with page.py. May import
decode.scoring and what it may."""
