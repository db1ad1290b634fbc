"""Metrics of rankings and dialogues, their chance levels and bounds, as pure functions."""
