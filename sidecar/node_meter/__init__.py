"""The node meter: measures one node once, and tells each of its pods what is the pod's."""
