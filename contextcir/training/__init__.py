"""What [`~contextcir.trainer.CIRTrainer`] is made of, a file for each idea."""
