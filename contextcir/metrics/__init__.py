"""Scores of ranked ids and of dialogues, what a random ranking scores, and bounds. Plain functions."""
