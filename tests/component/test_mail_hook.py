"""The hook that mails, as the process it is: what is in a digest makes no header, and reaches nobody's terminal."""

import email
import email.policy
import json
import os
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clamscannerd.notify import example

HOOK = Path(__file__).parents[2] / "packaging/hooks/mail"
SHIPPED = Path(__file__).parents[2] / "packaging/mail.toml"


class Mailer(NamedTuple):
    """With a sendmail that keeps what it got, or fails."""

    directory: Path

    def send(self, settings: str = "", *, code: int = 0, **changes: Any) -> "subprocess.CompletedProcess[str]":
        sendmail = self.directory / "sendmail"
        sendmail.write_text(f"#!/bin/sh\necho $* >{self.directory}/words\ncat >{self.directory}/mail\nexit {code}\n")
        sendmail.chmod(0o755)
        file = self.directory / "mail.toml"
        file.write_text(f'sendmail = "{sendmail}"\nsmtp = ""\n' if "smtp" not in settings else "")
        with file.open("a") as stream:
            stream.write(settings)
        return subprocess.run(
            [HOOK],
            input=json.dumps(digest(**changes)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/bin:/bin", "CLAMSCANNERD_MAIL_SETTINGS": str(file)},
        )

    def mail(self) -> EmailMessage | None:
        """What came, as a mail program reads it."""
        file = self.directory / "mail"
        return read(file.read_bytes()) if file.exists() else None


def read(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def digest(**changes: Any) -> dict[str, Any]:
    made_up: dict[str, Any] = json.loads(example.digest("ab" * 16, host="web1", now=1_769_856_000.0))
    return {**made_up, "kind": "findings", "account": {"user": "anna", "uid": 1, "home": "/home/anna"}, **changes}


@pytest.fixture
def mailer(tmp_path: Path) -> Mailer:
    return Mailer(tmp_path)


def test_account_and_administrator_get_one_mail_that_names_files_and_what_to_do(mailer: Mailer) -> None:
    ended = mailer.send()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (mailer.directory / "words").read_text() == "-t -i\n"
    mail = mailer.mail()
    assert mail is not None
    assert (mail["To"], mail["From"]) == ("anna, root", "root")
    assert mail["Subject"] == "web1: 2 infected files of anna"
    assert mail["Message-ID"] == f"<{'ab' * 16}@web1>"
    assert mail["Auto-Submitted"] == "auto-generated"
    text = mail.get_content()
    assert "  /home/example/public_html/it is\\u000aonly a \\u202etest.php\n      Eicar-Test-Signature\n" in text
    assert "2 infected, 4986 scanned, 14 not scanned (9 over 25 MiB, 5 encrypted)." in text
    assert "made by clamscannerctl hooks test" in text


def test_nothing_in_a_digest_becomes_a_header_or_an_escape_sequence(mailer: Mailer) -> None:
    evil = "x\r\nBcc: victim@example.org\r\n\r\n\x1b]0;owned\x07\u202e"
    finding = {"file": evil, "signature": evil}
    scan = {**digest()["scan"], "scan_type": evil, "state": evil, "not_scanned": {evil: 1}}
    account = {"user": evil, "uid": 1, "home": evil}
    ended = mailer.send("", host=evil, id=evil, account=account, findings=[finding], scan=scan, advice=[evil])
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stderr
    mail = mailer.mail()
    assert mail is not None
    assert set(mail.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted",
        "Content-Type", "Content-Transfer-Encoding", "MIME-Version",
    }  # fmt: skip
    assert mail["To"] == "root"
    assert all(c.isprintable() or c == "\n" for c in mail.get_content())


def test_names_beyond_ascii_arrive(mailer: Mailer) -> None:
    mailer.send(host="höst", findings=[{"file": "/home/änna/日本.php", "signature": "S"}])
    mail = mailer.mail()
    assert mail is not None
    assert mail["Subject"] == "höst: 2 infected files of anna"
    assert "/home/änna/日本.php" in mail.get_content()
    (mailer.directory / "mail").read_bytes().decode("ascii")


def test_troubles_of_the_engine_and_tests_go_to_administrators_alone(mailer: Mailer) -> None:
    wanted = 'administrators = ["ops@example.org", "root"]\n'
    troubles = [{"id": "engine", "message": "clamd does not answer", "cure": "systemctl status clamav-daemon"}]
    mailer.send(wanted, kind="engine", troubles=troubles)
    mail = mailer.mail()
    assert mail is not None
    assert mail["To"] == "ops@example.org, root"
    assert "clamd does not answer" in mail.get_content()
    mailer.send(wanted, kind="test")
    mail = mailer.mail()
    assert mail is not None
    assert (mail["To"], mail["Subject"]) == ("ops@example.org, root", "test: web1: 2 infected files of anna")


def test_settings_are_heeded(mailer: Mailer) -> None:
    mailer.send('from = "scanner@example.org"\naccount = false\nadministrators = ["x"]\ndomain = "example.org"\n')
    mail = mailer.mail()
    assert mail is not None
    assert (mail["From"], mail["To"]) == ("scanner@example.org", "x@example.org")


def test_with_nobody_to_tell_nothing_is_sent(mailer: Mailer) -> None:
    assert mailer.send("account = false\nadministrators = []\n").returncode == 0
    assert mailer.mail() is None


@pytest.mark.parametrize(
    "settings", ["frm = 1\n", "account = 1\n", 'from = "a\\nBcc: b"\n', 'administrators = ["-x"]\n', "x"]
)
def test_wrong_settings_are_named(mailer: Mailer, settings: str) -> None:
    ended = mailer.send(settings)
    assert ended.returncode == 78
    assert "mail.toml" in ended.stderr
    assert mailer.mail() is None


def test_a_sendmail_that_fails_or_is_not_there_is_tried_again(mailer: Mailer) -> None:
    ended = mailer.send(code=67)
    assert ended.returncode == 75
    assert "ended with 67" in ended.stderr
    assert mailer.send('smtp = ""\nsendmail = "/nonexistent"\n').returncode == 75


def test_the_shipped_settings_are_the_defaults() -> None:
    text = "\n".join(line.removeprefix("#") for line in SHIPPED.read_text().splitlines() if line[:2] != "# ")
    names: dict[str, Any] = {"__name__": "hook"}
    exec(compile(HOOK.read_text(), HOOK, "exec"), names)  # noqa: S102  ours
    import tomllib

    assert tomllib.loads(text) == names["DEFAULTS"]


class _Smtp(socketserver.StreamRequestHandler):
    """As much of a mail server as smtplib needs."""

    def handle(self) -> None:
        got: list[bytes] = self.server.got  # type: ignore[attr-defined]
        self.wfile.write(b"220 x\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            got.append(line)
            if word == b"DATA":
                self.wfile.write(b"354 go\r\n")
                while (line := self.rfile.readline()) != b".\r\n":
                    got.append(line)
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")


@pytest.fixture
def smtp() -> Iterator[socketserver.TCPServer]:
    with socketserver.TCPServer(("127.0.0.1", 0), _Smtp) as server:
        server.got = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_by_smtp_names_without_a_domain_are_local(mailer: Mailer, smtp: socketserver.TCPServer) -> None:
    ended = mailer.send(f'smtp = "127.0.0.1:{smtp.server_address[1]}"\n')
    assert ended.returncode == 0, ended.stderr
    got: list[bytes] = smtp.got  # type: ignore[attr-defined]
    assert [line.split(b":")[1].split()[0] for line in got if line.startswith(b"rcpt")] == [
        b"<anna@localhost>", b"<root@localhost>",
    ]  # fmt: skip
    assert b"Subject: web1: 2 infected files of anna\r\n" in got


def test_it_needs_nothing_but_debians_python() -> None:
    assert HOOK.read_text().splitlines()[0] == "#!/usr/bin/python3 -I"
    assert os.access(HOOK, os.X_OK)
