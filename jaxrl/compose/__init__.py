"""Learner -> Learner: what wraps any learner, whatever its method."""
