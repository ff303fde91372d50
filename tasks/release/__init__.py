"""Release: export, parity with the trained model, package and register."""
