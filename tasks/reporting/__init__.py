"""Reporting: one self-contained page a run."""
