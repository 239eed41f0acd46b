"""What operators ask for: marker files, requests, asset bindings."""
