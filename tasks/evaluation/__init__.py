"""Evaluation: the tuned model against others on the same items, with intervals and a verdict."""
