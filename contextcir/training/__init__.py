"""Training: losses, the trainer, its options, its batches and its checkpoints."""
