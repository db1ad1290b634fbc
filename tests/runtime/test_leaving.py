"""Programs that end at once, when all that a normal end would do is done."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from contextcir.runtime.leaving import leave_with

class Late:
    def __del__(self):
        print("taken apart")  # only where the interpreter is

late = Late()
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
atexit.register(print, "at exit")

def work():
    sys.stdout.write("work, ")
    {work}

leave_with(work)
"""


def ending(work: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(work=work)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.fault("S09", "a command joins its threads, calls what is registered at exit, and then ends at once")
@pytest.mark.parametrize(
    "work, code, error",
    [
        ("return 0", 0, ""),
        ("return 75", 75, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no such file')", 1, "no such file\n"),
        ("raise ValueError('all is lost')", 1, "ValueError: all is lost\n"),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt\n"),
    ],
)
def test_all_is_done_before_the_end(work, code, error):
    got, output, errors = ending(work)
    assert (got, output) == (code, "work, thread\nat exit\n")
    assert errors.endswith(error) and bool(errors) == bool(error)


def test_a_failure_at_exit_is_printed():
    got, output, errors = ending("atexit.register(lambda: 1 / 0); return 0")
    assert got == 0 and "ZeroDivisionError" in errors and output.endswith("at exit\n")


def test_output_that_cannot_be_written_is_an_error():
    program = "from contextcir.runtime.leaving import leave_with; leave_with(lambda: print(1) or 0)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == 120, done.stderr
