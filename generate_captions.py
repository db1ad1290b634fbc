"""The command `contextcir generate`, as a script."""

import sys

from contextcir.cli.main import command

if __name__ == "__main__":
    sys.exit(command("generate"))
