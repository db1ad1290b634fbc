"""Scores of ranked ids in percent, and what is said of them: intervals (`bootstrap`) and a floor (`chance`).

Each score is plain functions and, loaded by path, an `evaluate` module.
"""
