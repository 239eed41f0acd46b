"""Deletes uploaded recordings and expires the history."""
