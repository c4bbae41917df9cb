"""Policy learning as pure functions on thousands of simulated environments."""

__version__ = "0.2.0"
