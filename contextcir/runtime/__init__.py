"""Runtime services: processes, evaluation mode, weights, file locations, provenance, and the model protocol."""
