"""Models that are loaded and answer; load.py is the way in."""
