"""Opens files below a watched folder, identifies their bytes, and finds programs that write to them."""
