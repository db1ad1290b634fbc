"""Scores of ranked ids, in percent. Each file is plain functions and, loaded by path, an `evaluate` module."""
