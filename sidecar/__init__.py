"""emissions-sidecar: the energy and emissions of training jobs, metered without touching their code."""
