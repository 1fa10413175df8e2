"""The dashboard: a page for operators, its JSON, and its event stream, by HTTP."""
