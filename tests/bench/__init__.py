"""Benchmarks that measure what the README promises."""
