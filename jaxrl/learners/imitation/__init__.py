"""Imitation of recorded episodes."""
