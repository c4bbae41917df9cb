"""Command lines: scripts, play, plot."""
