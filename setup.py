"""The agreed top level has a `setup.py`; all that it could say stands in `pyproject.toml`."""

from __future__ import annotations

from setuptools import setup

setup()
