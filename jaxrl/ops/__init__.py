"""Functions on arrays: returns, schedules, optimisers. Nothing here knows an environment."""
