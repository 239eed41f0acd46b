"""What others may see of the agent: the status document, the metrics, its health."""
