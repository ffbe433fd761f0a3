"""What `sidecar.tracker` is made of: the same engine, inside of a Python program."""
