"""Decides what happens to a recording; knows no library, only ports."""
