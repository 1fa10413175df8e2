"""Layer 4: processes. Spawning, sockets, and all that runs inside a worker."""
