"""Layer 6: observers. Each knows events, state and its own output."""
