"""Data: load, validate, clean, split and tokenize, with every row accounted for."""
