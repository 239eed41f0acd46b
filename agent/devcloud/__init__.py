"""The embedded cloud of the demo and the tests: a gateway server over a real S3 server."""
