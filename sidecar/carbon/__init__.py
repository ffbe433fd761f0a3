"""Carbon intensity of electricity: set by the user, from an energy mix, or from the catalogue."""
