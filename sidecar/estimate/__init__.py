"""Pure formulas from usage to energy and emissions: no clock, no file, no network."""
