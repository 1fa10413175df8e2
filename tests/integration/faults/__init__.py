"""The fault table: each thing that can go wrong, under clients that count."""
