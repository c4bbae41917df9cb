"""Small classic tasks."""
