"""The process that parses EVTX files for `events`: a path per input line, then its records, one output line each.

Place in the flow: run as a script, never imported. The parser can loop for ever on a corrupt file, so it works where it
can be killed. Lines: `R` record JSON, `E` what could not be read, `.` end of the file.
"""

import json
import sys

ERRORS = 20  # after so many unreadable records the file is given up


def main() -> None:
    from evtx import PyEvtxParser

    for line in sys.stdin.buffer:
        path = json.loads(line)
        try:
            records = PyEvtxParser(path, 1).records_json()
            errors = 0
            while errors < ERRORS:
                try:
                    say(b"R", next(records)["data"])  # type: ignore[index]
                except StopIteration:
                    break
                except Exception as error:
                    errors += 1
                    say(b"E", str(error)[:300])
        except BrokenPipeError:
            raise
        except BaseException as error:
            say(b"E", str(error)[:300])
        say(b".", "")
        sys.stdout.buffer.flush()


def say(kind: bytes, text: str) -> None:
    """JSON carries line ends inside strings as escapes, so those in `text` are layout."""
    sys.stdout.buffer.write(kind + text.replace("\n", " ").replace("\r", " ").encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    main()
