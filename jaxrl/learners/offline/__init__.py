"""Learners from recorded data alone, one file each."""
