"""The home of an account as somebody would show the program with it: mostly clean, two infected files, one mailbox."""

import os
from pathlib import Path

from tests.fakes.archives import encrypted_zip
from tests.fakes.realclamd import EICAR, MARKER

INBOX = (
    b"From anna Sat Jan 31 10:00:00 2026\nFrom: Bert <bert@example.org>\nSubject: Lunch?\n\nAt noon.\n\n"
    b"From eve Sat Jan 31 10:05:00 2026\nFrom: Accounts <eve@example.org>\nSubject: Your invoice\n\n%b\n\n" % MARKER
)


def furnish(home: Path, uid: int, gid: int, *, clean: int = 60) -> None:
    """As root; all of it belongs to the account."""
    files = {
        "public_html/up load.php": EICAR,
        "public_html/cache/x.php": EICAR,
        "mail/inbox": INBOX,
        "diary.txt": b"Dear diary\n",
        "private.zip": encrypted_zip(b"secret"),
        **{f"photos/{number:04}.jpg": b"\xff\xd8 %d" % number for number in range(clean)},
    }
    for name, content in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for directory, directories, names in os.walk(home):
        for name in (*directories, *names):
            os.chown(os.path.join(directory, name), uid, gid, follow_symlinks=False)
