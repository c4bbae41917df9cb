"""Manipulation tasks with a sparse success and a scripted expert."""
