"""Robots with legs that walk as they are told."""
