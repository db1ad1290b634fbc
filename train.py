"""The command `contextcir train`, as a script: `accelerate launch train.py …`."""

from contextcir.cli.main import script

if __name__ == "__main__":
    script("train")
