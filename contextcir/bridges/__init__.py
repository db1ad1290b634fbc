"""Our models and protocols inside other people's tools."""
