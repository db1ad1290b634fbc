"""Speed and memory: one file for each thing that is measured. `make bench` runs them all."""
