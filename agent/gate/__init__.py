"""Answers whether anything may be sent now: pause, windows, links, outages."""
