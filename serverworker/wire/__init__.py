"""Layer 3: wire. AMP commands, values of any size, and the emits that both processes exchange."""
