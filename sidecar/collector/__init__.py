"""The collector: takes segments from sidecars over HTTP and commits them under verified names."""
