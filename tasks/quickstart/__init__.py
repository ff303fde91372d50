"""Quickstart: a small base model and a dirty instruction set of our own making, for a first run without a hub."""
