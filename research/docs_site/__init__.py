"""How the documentation site is built: hooks of MkDocs, references between docstrings, and drawings."""
