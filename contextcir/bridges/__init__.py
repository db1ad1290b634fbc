"""Bridges to other libraries and formats, in which people already work."""
