"""Run a command: errors in one line, and the exit codes of all commands.

| code | meaning |
|---|---|
| 0 | done |
| 1 | input, options or results that cannot be used: the message says which |
| 2 | an unknown, missing or malformed option |
| 3 | stopped by a chat server or by the budget: the same command goes on |
| 4 | done, but some images were bad and left out: the message counts them |
| 5 | done, but more questions to a chat model failed than `--max_failed` allows: the results are incomplete |
| 75 | stopped by SIGTERM (training: by SIGUSR1 and Ctrl-C, too), and what was done is saved: run it again |
| 130 | interrupted (Ctrl-C): the same command goes on, where it can |

Errors that no user can have caused keep their traceback and exit with 1.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from contextcir.runtime.secrets import redact
from contextcir.training.stop_signals import RUN_AGAIN, RunStopped

INCOMPLETE = 4
UNANSWERED = 5
INTERRUPTED = 130
EXPECTED = (ValueError, OSError, ImportError, FloatingPointError)


class UnansweredError(RuntimeError):
    """A command is done, but too many questions to a chat model failed: its results are incomplete."""

    exit_code = UNANSWERED


def run(main: Callable[[Sequence[str]], Any], prog: str, argv: Sequence[str] | None = None) -> int:
    """
    Run a command.

    Args:
        main (`Callable[[Sequence[str]], Any]`): Takes the arguments. An `int` that it returns is the exit code.
        prog (`str`): What errors begin with, such as `contextcir train`.
        argv (`Sequence[str]`, *optional*): The arguments; by default those of this process. With `--debug`, errors
            keep their traceback.

    Returns:
        `int`: The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = _take_debug(argv)
    try:
        result = main(argv)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except RunStopped as stopped:
        print(f"{prog}: {stopped}", file=sys.stderr)
        return RUN_AGAIN
    except KeyboardInterrupt as stop:  # SIGTERM has a code of its own, see `contextcir/chat/draining.py`
        print(f"{prog}: interrupted.", file=sys.stderr)
        return getattr(stop, "exit_code", INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        known = isinstance(error, EXPECTED) or hasattr(error, "exit_code")
        if not known or debug:
            raise
        print(f"{prog}: {redact(str(error))}", file=sys.stderr)
        return getattr(error, "exit_code", 1)


def _take_debug(argv: list[str]) -> bool:
    """Remove `--debug` from the arguments, and say whether it was there. With a value, it is an option of transformers
    (such as `--debug underflow_overflow`), and stays."""
    for place, word in enumerate(argv):
        if word == "--debug" and (place + 1 == len(argv) or argv[place + 1].startswith("-")):
            del argv[place]
            return True
    return False
