"""Finds finished recordings on the disk."""
