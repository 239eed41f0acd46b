"""One recording's way into the bucket: prepare, open a session, send parts, verify, complete, recover."""
