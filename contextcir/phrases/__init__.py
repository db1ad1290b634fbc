"""Noun phrases of modification texts, from constituency parses."""
