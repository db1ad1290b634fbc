"""What everything else runs on: processes, evaluation mode, provenance, file locations."""
