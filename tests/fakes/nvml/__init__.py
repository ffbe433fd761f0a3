"""A fake NVML: a real shared library, driven by a file, loaded by the unmodified nvidia-ml-py."""
