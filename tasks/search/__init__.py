"""Search: which settings to train with."""
