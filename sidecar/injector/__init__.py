"""Puts the sidecar into pods: one pure function behind the webhook and `emissions-sidecar inject`."""
