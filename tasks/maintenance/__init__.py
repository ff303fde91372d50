"""Retention: what of a workspace and its store has not been used for long, and its removal."""
