"""Layer 6: operator surfaces. Each reaches the monitor through one interface."""
