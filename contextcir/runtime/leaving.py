"""End a process that has done its work, without taking the interpreter apart.

Libraries in C++ (Gloo, Arrow, autograd) keep threads. A thread that reaches for Python while the interpreter is taken
apart is ended by force, and aborts the process: "terminate called without an active exception", SIGABRT. It happens
rarely, on busy machines, after all is done; but a launcher of several processes then calls the job failed. So all that
a normal end would do is done here, while the interpreter is whole, and the rest is left to the operating system.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def leave_with(work: Callable[[], int]) -> NoReturn:
    """
    Call `work`, and end the process with its exit code, as `sys.exit(work())` would: errors are printed with their
    traceback, threads are joined, functions registered at exit are called, and what was printed is written.

    Args:
        work (`Callable[[], int]`): Such as a command. It may raise `SystemExit`.
    """
    code = _code_of(work)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # joins threads, and ends pools of threads
        atexit._run_exitfuncs()  # ends process groups, loaders and child processes
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # the reader is gone, or there never was one
            code = code or 120  # as Python itself ends
    os._exit(code)


def _code_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
