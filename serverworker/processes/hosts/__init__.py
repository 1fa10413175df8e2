"""How each kind of application is run in a worker: one small class each, behind one interface."""
