"""The captures of README: the main commands in a real terminal (tmux, 80x24), on a real daemon and a made-up home.

    sudo .venv/bin/python -m tests.captures [COLUMNSxLINES]

prints what stood on the screen after each. Makes an account and takes it away again; its name is shown as "anna".
Whoever changes what a view looks like looks at these, also at 200x50, and puts them into README.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.accounts import throw_away
from tests.fakes.demonstration import furnish
from tests.fakes.running import RunningDaemon, wait_for

SHOWN_AS = "anna"
PROMPT = "$ "
STEPS: tuple[tuple[str, str], ...] = (
    # What is typed ("ENTER" as such), and what has to stand there before the capture; "" is the prompt.
    ("clamscannerctl scan home --wait --strict ENTER", ""),
    ("clamscannerctl infected ENTER", ""),
    ("clamscannerctl disinfect ENTER", "? help"),
    ("q", "2 of 3"),
    ("q", "3 of 3"),
    ("q", "b back"),
    ("y", ""),
    ("clamscannerctl task ENTER", ""),
    ("clamscannerctl undo ENTER", "[y/N]"),
    ("y ENTER", ""),
    ("clamscannerctl status --watch ENTER", "Ctrl-C ends"),
    ("C-c", ""),
    ("clamscannerctl history ENTER", ""),
    ("clamscannerctl report --details ENTER", ""),
    ("clamscannerctl quarantine list ENTER", ""),
    ("clamscannerctl health ENTER", ""),
)


class Tmux:
    """A server of its own with one pane, in which a shell of the account runs."""

    def __init__(self, socket: Path, columns: int, lines: int, shell: list[str]) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        size = ["-x", str(columns), "-y", str(lines)]
        subprocess.run([*self._tmux, "new-session", "-d", *size, shlex.join(shell)], check=True)

    def screen(self) -> list[str]:
        shown = subprocess.run([*self._tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True).stdout
        return shown.rstrip().splitlines()

    def at_prompt(self) -> bool:
        lines = self.screen()
        return bool(lines) and lines[-1].rstrip() == PROMPT.rstrip()

    def type(self, words: str) -> None:
        for word in words.split(" ENTER"):
            if word == "C-c":
                subprocess.run([*self._tmux, "send-keys", word], check=True)
            elif word:
                subprocess.run([*self._tmux, "send-keys", "-l", word], check=True)
        if words.endswith("ENTER"):
            subprocess.run([*self._tmux, "send-keys", "Enter"], check=True)

    def clear(self) -> None:
        subprocess.run([*self._tmux, "send-keys", "-R"], check=True)
        self.type(" ENTER")
        wait_for(self.at_prompt, "the prompt")

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False)


def main() -> None:
    columns, lines = (int(number) for number in (sys.argv[1] if len(sys.argv) > 1 else "80x24").split("x"))
    bin_directory = Path(sys.executable).parent
    with RunningDaemon() as daemon, throw_away("demo") as person:
        furnish(Path(person.home), person.uid, person.gid)
        shell = ["setpriv", f"--reuid={person.uid}", f"--regid={person.gid}", "--clear-groups", "env", "-i"]
        shell += [f"PATH={bin_directory}:/usr/bin:/bin", f"HOME={person.home}", "TERM=screen", "LC_ALL=C.UTF-8"]
        shell += [f"CLAMSCANNERD_SOCKET={daemon.socket_path}", f"PS1={PROMPT}", "bash", "--norc", "--noprofile"]
        tmux = Tmux(daemon.directory / "tmux", columns, lines, shell)
        try:
            wait_for(tmux.at_prompt, "the shell")
            for typed, wanted in STEPS:
                before = tmux.screen()
                if wanted == "" and typed.endswith("ENTER") and tmux.at_prompt():
                    tmux.clear()
                    before = tmux.screen()
                tmux.type(typed)
                done = (lambda text: lambda: any(text in line for line in tmux.screen()))(wanted) if wanted else None
                wait_for(done or (lambda seen=before: tmux.at_prompt() and tmux.screen() != seen), typed)
                time.sleep(0.3)  # what is still being drawn
                print(f"--- {typed}")
                print("\n".join(tmux.screen()).replace(person.name, SHOWN_AS))
        finally:
            tmux.close()


if __name__ == "__main__":
    main()
