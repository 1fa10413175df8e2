"""Layer 2: decisions. Pure functions of values: no reactor, no clock, no I/O."""
