"""Engines that search vectors: exactly in memory or from disk, in LanceDB, in PostgreSQL."""
