"""Opens files below a watched folder, identifies their bytes, finds who writes to them."""
