"""Learners under constraints, one file each."""
