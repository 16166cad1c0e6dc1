"""The `vla` command. Commands are imported when they are called, so that `vla --help` answers at once."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import vla

# name -> (module with `main(arguments) -> exit code`, what it does)
COMMANDS = {
    "quickstart": ("vla.commands.quickstart", "the whole pipeline in small, from demonstrations to a followed prompt"),
    "collect": ("vla.commands.collect", "record demonstrations with a scripted expert"),
    "info": ("vla.commands.info", "what a data set holds"),
    "validate": ("vla.commands.validate", "check a data set before training on it"),
    "relabel": ("vla.commands.relabel", "make every episode a demonstration of what it achieved"),
    "look": ("vla.commands.look", "label episodes by their pictures, where there is no simulator state"),
    "train": ("vla.commands.train", "train a policy as a configuration file says"),
    "transfer-report": ("vla.commands.transfer_report", "whether sharing weights helps or hurts each task"),
    "finetune": ("vla.commands.finetune", "teach a policy new instructions and keep the old ones"),
    "attempt": ("vla.commands.attempt", "record what a policy does when it is asked, failures included"),
    "improve": ("vla.commands.improve", "let a policy try, relabel what it achieved, learn from that"),
    "evaluate": ("vla.commands.evaluate", "success rates and prompt sensitivity in a simulator, with a report"),
    "rank": ("vla.commands.rank", "whether a policy's critic knows success from failure"),
    "infer": ("vla.commands.infer", "type a prompt, watch the policy follow it"),
}

HELP = f"""vla {vla.__version__}: language-conditioned robot policies

usage: vla [--debug] COMMAND ...

{os.linesep.join(f"  {name:<17}{purpose}" for name, (_, purpose) in COMMANDS.items())}

`vla COMMAND --help` explains a command with examples. --debug (or VLA_DEBUG=1) shows where an error came from.
"""

USAGE_ERROR = 2
INTERRUPTED, PIPE_CLOSED = 128 + 2, 128 + 13  # as shells count SIGINT and SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.get("VLA_DEBUG"))
    if arguments[:1] == ["--debug"]:
        debug, arguments = True, arguments[1:]
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # `vla ... | head` has read enough. What is still buffered must go somewhere when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (ValueError, RuntimeError, OSError) as error:
        if debug or not _is_answer(error):
            raise
        print(f"vla {arguments[0]}: {error}", file=sys.stderr)
        return USAGE_ERROR


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else USAGE_ERROR
    name, *rest = arguments
    if name == "--version":
        print(vla.__version__)
        return 0
    if name not in COMMANDS:
        return _unknown(name)
    return importlib.import_module(COMMANDS[name][0]).main(rest)


def _unknown(name: str) -> int:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
    print(f"vla: there is no command {name!r}; {hint}", file=sys.stderr)
    return USAGE_ERROR


def _is_answer(error: ValueError | RuntimeError | OSError) -> bool:
    """Whether the message was written for the user: by the system about a file, or by a `raise` of this package.

    What comes out of some library's depths is a bug, and its traceback is wanted.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith("vla."):
        return True
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return Path(vla.__file__).resolve().parent in raised_in.parents
