"""Stand-ins for the outside world that tests move by hand."""
