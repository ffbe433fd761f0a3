"""Sources of this pod's share of the node, one module each, behind `PodSource`."""
