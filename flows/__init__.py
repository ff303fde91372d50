"""Order only: each flow chains stages; the command line is in `cli`."""
