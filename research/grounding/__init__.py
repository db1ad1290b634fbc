"""Find out what grounding is worth: models told by true masks where phrases should look, and losses without masks."""
