"""Fakes of the outside world, which tests control by hand."""
