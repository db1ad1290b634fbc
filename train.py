"""The command `contextcir train`, as a script: `accelerate launch train.py …`."""

import sys

from contextcir.cli.main import command

if __name__ == "__main__":
    sys.exit(command("train"))
