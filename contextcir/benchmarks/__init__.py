"""What is measured and how: `base` holds data and protocol of a benchmark, one more file for each known one."""
