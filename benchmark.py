"""The command `contextcir benchmark`, as a script."""

from contextcir.cli.main import script

if __name__ == "__main__":
    script("benchmark")
