"""Benchmarks: the data and the protocol of each."""
