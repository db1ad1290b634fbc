"""Grids of trainings that put claims to the test: `grid` says what is run, `page` what came out."""

from research.ablation.grid import Grid, Part, Run, planned, read_grid, read_yaml, result_of
from research.ablation.page import columns_of, page_lines

__all__ = ["Grid", "Part", "Run", "columns_of", "page_lines", "planned", "read_grid", "read_yaml", "result_of"]
