"""Who runs where: VM size, region, pod and project, each field with the source it came from."""
