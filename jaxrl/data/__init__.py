"""Transitions on the device and on disk."""
