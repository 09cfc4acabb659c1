"""Everything lives in pyproject.toml; this file is for tools that expect a setup.py."""

from setuptools import setup

setup()
