"""Faults in the network: the real agent, S3 server and gateway with faulty proxies between them."""
