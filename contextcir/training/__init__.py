"""What [`~contextcir.training.trainer.CIRTrainer`] is made of, a file for each idea."""
