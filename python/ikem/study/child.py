"""The process of one step: `python -m ikem.study.child COMMAND ...` is `ikem COMMAND ...`, and ends with its study."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

from ikem import cli


def main(arguments: Sequence[str]) -> None:
    """Run the command; what goes wrong is said in the last line of what it prints."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        cli.main(arguments)
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"ikem {arguments[0]}: error: {reason}", file=sys.stderr)
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    """Stop, as by a signal, when the other end of the standard input is closed: when the study has died."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
