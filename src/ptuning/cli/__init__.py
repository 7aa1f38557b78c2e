"""The command `ptuning`: parses, calls one library function, prints. One file a command; nothing imports this room.

Results go to stdout, progress to stderr. Exit status: 0, 1 (failed), 2 (bad usage or settings).
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Runs the command line and exits."""
    from ptuning.cli.app import app
    from ptuning.errors import ConfigError, PtuningError
    from ptuning.launch import num_processes, process_index

    where = ""
    try:
        if num_processes() > 1:
            where = f" in process {process_index()} of {num_processes()}"
        app(prog_name="ptuning")
    except PtuningError as error:
        print(f"error{where}: {error}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print("stopped. A training run goes on with --resume.", file=sys.stderr)
            sys.exit(1)
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout went away, as `| head` does
        sys.exit(1)
    except OSError as error:
        print(f"error: {error}. Check the path, its rights, and the space on the disk.", file=sys.stderr)
        sys.exit(1)
