"""Training: one process a device under torchrun, DeepSpeed's engine, checkpoints that resume bit-equally."""
