"""Grids of trainings that test claims: `grid` reads what to run, `page` renders the results."""
