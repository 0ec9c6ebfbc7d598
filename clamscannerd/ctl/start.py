"""Where `clamscannerctl` begins: the one command that panels run for each page goes a short way, all others to main.py.

`status --json`, with or without --socket and --user, asked of a daemon that answers as it should, needs a socket and
JSON: importing click and msgspec would take four times as long as the call. Nothing is reported here: whatever is not
the plain good case (another option, a refusal, nobody there, an answer of any other shape) is left to main.py, which
asks again and says what is wrong. What is printed, and the exit code, are those that main.py would give; a test
compares them.

Rejected: this for every command (each would be written twice), a faster parser in place of click (completion and help
are worth more), zipping or freezing the program (workers and Debian's rules want plain files).
"""

import sys

LIMIT_BYTES = 1 << 24
"""Of an answer: 1,000 paths of 4,095 bytes, each byte escaped, twice."""
_VALUES = ("--socket", "--user")


def main() -> int:
    """The console script."""
    try:
        if (wanted := _wanted(sys.argv[1:])) is not None and (code := _status(*wanted)) is not None:
            return code
        from clamscannerd.ctl.main import main as whole

        return whole()
    except KeyboardInterrupt:  # while it was being loaded: nothing has been asked for
        return 130


def _wanted(words: list[str]) -> tuple[str | None, str | None] | None:
    """Socket and user, if it is `status --json` and nothing else."""
    given: dict[str, str] = {}
    plain = []
    left = iter(words)
    for word in left:
        if word in _VALUES:
            value = next(left, "")
            if not value or word in given:
                return None
            given[word] = value
        else:
            plain.append(word)
    return (given.get("--socket"), given.get("--user")) if sorted(plain) == ["--json", "status"] else None


def _status(socket_path: str | None, user: str | None) -> int | None:
    """The exit code of what was printed; None: nothing was."""
    import json

    from clamscannerd.client_socket import Unreachable, find
    from clamscannerd.ctl import text

    request = {"jsonrpc": "2.0", "id": 1, "method": "ClamScanner.get_scan_status"}
    try:
        sock, _ = find(socket_path)
        with sock, sock.makefile("rb") as lines:
            sock.sendall(json.dumps({**request, "params": {"user": user}} if user else request).encode() + b"\n")
            answer = json.loads(lines.readline(LIMIT_BYTES))["result"]
        result = answer["result"]
        if result["status"] != 1 or result["errors"] or not isinstance(result["data"], dict):
            return None
        code, line = text.scan_exit(result["data"]), text.json_line(answer)
        warnings = [text.safe(str(one)) for one in result["warnings"] or ()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, Unreachable):
        return None
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        sys.stderr.write("".join(f"clamscannerctl: warning: {one}\n" for one in dict.fromkeys(warnings)))
    except (OSError, AttributeError, UnicodeError):
        return None  # who reads has left, or the stream is closed: main.py knows what to do
    return code
