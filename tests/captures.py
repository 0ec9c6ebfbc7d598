"""The captures of README: the main commands in a real terminal (tmux, 80x24), on a real daemon and a made-up home.

    sudo .venv/bin/python -m tests.captures [COLUMNSxLINES]     # prints what stood on the screen after each
    sudo .venv/bin/python -m tests.captures --write             # puts those of README in their place there

Makes an account and takes it away again; its name is shown as "anna". Whoever changes what a view looks like looks at
these, also at 200x50, and writes them into README. What stands there is not compared by a test: dates and the daemon's
own choice of the order would have to be taken out of it, and with them what is to be seen.
"""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.fakes.accounts import throw_away
from tests.fakes.demonstration import furnish
from tests.fakes.running import RunningDaemon, wait_for

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- captures: python -m tests.captures --write -->\n", "<!-- end of captures -->\n"
SHOWN_AS = "anna"
PROMPT = "$ "
SCAN_S = 300.0
FILES = 6_000
"""So many that there is a progress to be seen."""


RUNNING = "running, "
"""Of a scan under way: what is seen once it has found something, or last of all."""


class Step(NamedTuple):
    """What is typed ("ENTER" as such, CHOOSE: the key for the finding at hand), and what has to stand there before the
    capture; "" is the prompt. `most`: lines of it for README, 0: none; `since`: from the last line with this on;
    `after`: what comes after it."""

    typed: str
    wanted: str = ""
    most: int = 0
    since: str = ""
    after: str = ""


CHOOSE = "CHOOSE"
STEPS = (
    Step("clamscannerctl scan home --wait --strict ENTER", RUNNING, 9),
    Step("", "result: ", 10, after="$ clamscannerctl"),
    Step("clamscannerctl infected ENTER", "", 4),
    Step("clamscannerctl disinfect ENTER", "? help", 12),
    Step(CHOOSE, "2 of 3", 12, since="2 of 3"),
    Step(CHOOSE, "3 of 3", 12, since="3 of 3"),
    Step(CHOOSE, "Do this with", 12, since="files: into the vault"),
    Step("y", "take it all back", 12, after="Do this with"),
    Step("clamscannerctl quarantine list ENTER", "", 8),
    Step("clamscannerctl undo ENTER", "[y/N]", 8),
    Step("y ENTER", "done: success", 8, since="[y/N]"),
    Step("clamscannerctl task --follow ENTER", "", 8),
    Step("clamscannerctl status --watch ENTER", "Ctrl-C ends"),
    Step("C-c"),
    Step("clamscannerctl history ENTER", "", 6),
    Step("clamscannerctl report --details ENTER", "", 12),
    Step("clamscannerctl explain private.zip ENTER", "", 6),
    Step("clamscannerctl health ENTER", "", 5),
    Step("clamscannerctl doctor ENTER", "", 6),
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


def captured(tmux: Tmux, step: Step) -> list[str]:
    """What stands there once `wanted` does."""
    before = tmux.screen()
    if step.typed.startswith("clamscannerctl"):
        tmux.clear()
        before = tmux.screen()
    mailbox = any("mailbox: " in line for line in before[-9:])
    tmux.type(step.typed if step.typed != CHOOSE else "c" if mailbox else "q")
    if step.wanted == RUNNING:
        return running(tmux)

    def there() -> list[str] | None:
        lines = tmux.screen()
        if step.wanted:
            return lines if any(step.wanted in line for line in lines) else None
        return lines if tmux.at_prompt() and lines != before else None

    wait_for(there, step.typed, SCAN_S)
    time.sleep(0.3)  # what is still being drawn
    return tmux.screen()


def running(tmux: Tmux) -> list[str]:
    """A screen with the progress of a scan."""
    last: list[str] = []

    def seen() -> bool:
        screen = tmux.screen()
        if any(RUNNING in line for line in screen):
            last[:] = screen
        return "infected:" in screen or any("result: " in line for line in screen)

    wait_for(seen, "a scan", SCAN_S)
    return last


def for_readme(step: Step, screen: list[str]) -> list[str]:
    """The part of it that stands there: without what was typed, the prompt after it, and what is more than `most`."""
    lines = [line.rstrip() for line in screen]
    echo = [at for at, line in enumerate(lines) if step.typed and step.typed.removesuffix(" ENTER") in line]
    lines = lines[echo[-1] + 1 :] if echo and step.typed.startswith("clamscannerctl") else lines
    while lines and lines[-1] in ("", PROMPT.rstrip()):
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    if words := step.since or step.after:
        lines = lines[max(at for at, line in enumerate(lines) if words in line) + bool(step.after) :]
    if len(lines) > step.most:
        lines = [*lines[: step.most - 1], "..."]
    typed = f"{PROMPT}{step.typed.removesuffix(' ENTER')}"
    return [typed, *lines] if step.typed.startswith("clamscannerctl") else lines


def write(blocks: list[list[str]]) -> None:
    """Into README, indented as its code."""
    text = "\n".join("".join(f"    {line}".rstrip() + "\n" for line in block) for block in blocks)
    old = README.read_text()
    before, rest = old.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--write"]
    columns, lines = (int(number) for number in (words[0] if words else "80x24").split("x"))
    bin_directory = Path(sys.executable).parent
    blocks: list[list[str]] = []
    with RunningDaemon() as daemon, throw_away("demo") as person:
        furnish(Path(person.home), person.uid, person.gid, clean=FILES)
        shell = ["setpriv", f"--reuid={person.uid}", f"--regid={person.gid}", "--clear-groups", "env", "-i"]
        shell += ["--chdir", person.home, f"PATH={bin_directory}:/usr/bin:/bin", f"HOME={person.home}"]
        shell += ["TERM=screen", "LC_ALL=C.UTF-8"]
        shell += [f"CLAMSCANNERD_SOCKET={daemon.socket_path}", f"PS1={PROMPT}", "bash", "--norc", "--noprofile"]
        tmux = Tmux(daemon.directory / "tmux", columns, lines, shell)
        try:
            wait_for(tmux.at_prompt, "the shell")
            for step in STEPS:
                screen = [re.sub(f"\\b{person.name}\\b", SHOWN_AS, line) for line in captured(tmux, step)]
                sys.stdout.write("\n".join([f"--- {step.typed}", *screen, ""]))
                sys.stdout.flush()
                if step.most:
                    blocks.append(for_readme(step, screen))
        finally:
            tmux.close()
    if "--write" in sys.argv:
        write(blocks)


if __name__ == "__main__":
    main()
