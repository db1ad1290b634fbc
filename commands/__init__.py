"""What `benchmark.py` does beside measuring, one file for each sub-command, and what they all load."""
