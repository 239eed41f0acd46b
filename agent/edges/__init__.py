"""One library or one outside thing each, behind a port; nothing is decided here."""
