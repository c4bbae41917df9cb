"""Functions from a learner to a learner. They work with any method."""
