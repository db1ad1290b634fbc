"""How this project measures itself: speed, ablations, and the pages rendered from their results."""
