"""Layer 1: values. Errors, events, settings and state; attrs and the standard library only."""
