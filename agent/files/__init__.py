"""Opens files below a watched folder."""
