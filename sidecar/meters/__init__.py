"""Read the cumulative counters of the node: CPU time, memory, RAPL, GPUs, and the pod's part."""
