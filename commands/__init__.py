"""What doors are made of: the sub-commands of `benchmark.py`, a file each, and what `train.py` is told and builds."""
