"""What grounding is worth: models that are told by true masks where phrases should look, and losses without masks."""
