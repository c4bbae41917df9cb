"""Learners for several agents, one file each."""
