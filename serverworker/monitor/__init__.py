"""Layer 5: the monitor. Joins decisions to processes."""
