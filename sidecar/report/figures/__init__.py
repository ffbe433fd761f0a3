"""From the sums of a report to what they mean: pure functions, each formula in a module of its own."""
