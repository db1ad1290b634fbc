"""Measure retrievers on benchmarks, compare measurements, and find out what is behind the numbers."""
