"""Callbacks for frameworks that train: they start and stop a tracker, and mark what is going on."""
