"""Uploads one recording: prepare, open a session, send parts, verify, complete, recover."""
