"""What is done: one package a stage, and the values, errors and storage they share."""
