"""Measurements of speed and memory, and of ImageScope with errors. `make bench` runs all of them."""
