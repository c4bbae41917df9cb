"""Policies that need no learner of their own: scripted experts, chunks of actions, planners."""
