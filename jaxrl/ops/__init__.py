"""Functions on arrays: returns, windows, schedules, optimisers. Nothing here knows an environment."""
