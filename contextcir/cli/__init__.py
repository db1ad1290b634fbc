"""Commands. Options are read first and heavy libraries imported after, so that `--help` answers at once."""
