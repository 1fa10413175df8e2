"""Tests that need root, Debian packages or a whole system; see README."""
