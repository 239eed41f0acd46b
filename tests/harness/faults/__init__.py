"""Faults at the wire: real edges, flow rooms, S3 server and gateway, and proxies in between that misbehave."""
