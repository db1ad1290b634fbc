"""Measurements of this project: speed, ablations, its own small models, and the pages rendered from the results."""
