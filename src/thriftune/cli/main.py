"""The `thriftune` command's entry point: what happens when a verb fails or is stopped."""

from __future__ import annotations

import errno
import io
import os
import sys

from thriftune.errors import ThriftuneError

_STOPPED = 130
_CONTINUES = "\nthriftune: stopped; what was finished is kept, the same command continues"
# Not bugs: the place that was to be written, not what was to be written there.
_PLACES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_NAMES = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


def main() -> None:
    """Run the command line; exits 2 with one line for an error the user can mend, 130 when stopped."""
    # Before torch loads OpenMP: threads that spin while they wait starve each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Names of files and texts of prompts may hold what the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            # Not above: this takes a third of a second, in which Ctrl-C is to be one line, too.
            from thriftune.cli.app import app

            app()
        except BaseException as error:
            if not _stopped(error):
                raise
            print(_CONTINUES, file=sys.stderr)
            sys.exit(_STOPPED)
        finally:
            sys.stdout.flush()
    except ThriftuneError as error:
        print(f"thriftune: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output (head, less) left; not an error, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in _PLACES | _NAMES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        what = (
            "see that there is room and that it can be written; what was finished is kept, the same command continues"
        )
        if error.errno in _NAMES:
            what = "give another path or name"
        print(f"thriftune: {where}{os.strerror(error.errno or 0)}: {what}", file=sys.stderr)
        sys.exit(2)


def _stopped(error: BaseException | None) -> bool:
    """Whether Ctrl-C ended the command: as Typer's exit, as itself, or as the cause of an import's error."""
    if isinstance(error, SystemExit):
        return error.code == _STOPPED
    while error is not None and not isinstance(error, (KeyboardInterrupt, ThriftuneError)):
        error = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt)


if __name__ == "__main__":
    main()
