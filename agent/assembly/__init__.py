"""Builds the agent from its settings, starts it, reloads it and stops it."""
