"""What a walk leaves out is what git ignores: the patterns of both, over the same tree.

But for `a**/b`: gitignore(5) says that such stars are ordinary ones, and so they are here; git 2.39 compares the plain
beginning by itself, and then takes what is left of the pattern for one that begins with `**/`.
"""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clamscannerd.globs import BadGlob, Globs

NAMES = [b"a", b"b", b"ab", b"a.b", b"abc", b"x[y]", b"!a", b"#", b"caf\xe9", b"a b", b"*", b"-"]
PIECES = [*NAMES, b"*", b"**", b"?", b"[ab]", b"[!a]", b"[a-c]", b"[^.]", b"\\*", b"\\a", b"*b", b"a*", b"*a*b"]
PIECES += [b"[[:alpha:]]", b"[]x]", b"[c-a]", b"[a-c-x]", b"**b", b"*.*", b"\\!a", b"\\#", b"[\\]y]", b"[--a]"]
PATTERN = st.builds(
    lambda negated, first, names, last: negated + first + b"/".join(names) + last,
    st.sampled_from([b"", b"", b"!"]),
    st.sampled_from([b"", b"", b"/"]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4),
    st.sampled_from([b"", b"", b"/"]),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A repository with each name as a file and as a directory, some levels deep."""
    root = os.fsencode(tmp_path_factory.mktemp("tree"))
    subprocess.run(["git", "init", "-q", root], check=True, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"})
    for one in (b"a", b"ab", b"x[y]", b"!a", b"caf\xe9", b"*"):
        for two in (b"a", b"a.b", b"b", b"#", b"a b"):
            os.makedirs(b"/".join([root, b"d-" + one, one, two]))
            for three in NAMES[:8]:
                Path(os.fsdecode(b"/".join([root, b"d-" + one, one, two, three]))).touch()
        os.makedirs(b"/".join([root, one, b"b", b"a"]))
        Path(os.fsdecode(b"/".join([root, one, b"b", b"a", b"ab"]))).touch()
    for name in (b"abc", b"a.b", b"#", b"-"):
        Path(os.fsdecode(root + b"/" + name)).touch()
    return root


def entries(root: bytes) -> list[tuple[bytes, bool]]:
    found = []
    for where, directories, files in os.walk(root):
        directories[:] = [name for name in directories if name != b".git"]
        beneath = os.path.relpath(where, root)
        for names, directory in ((directories, True), (files, False)):
            found += [(os.path.normpath(os.path.join(beneath, name)), directory) for name in names]
    return [one for one in found if one[0] != b".gitignore"]


def by_git(root: bytes, patterns: list[bytes], paths: list[bytes]) -> set[bytes]:
    Path(os.fsdecode(root), ".gitignore").write_bytes(b"".join(pattern + b"\n" for pattern in patterns))
    asked = subprocess.run(
        ["git", "-C", root, "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "-z", "--stdin"],
        input=b"".join(path + b"\0" for path in paths),
        stdout=subprocess.PIPE,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    assert asked.returncode in (0, 1)
    return set(asked.stdout.split(b"\0")) - {b""}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(patterns=st.lists(PATTERN, min_size=1, max_size=4))
def test_what_is_left_out_is_what_git_ignores(tree: bytes, patterns: list[bytes]) -> None:
    kept = []
    for pattern in patterns:
        try:
            Globs([pattern])
        except BadGlob:
            continue
        kept.append(pattern)
    there = entries(tree)
    globs = Globs(kept)
    ours = {path for path, directory in there if globs.why(path, directory=directory)}
    theirs = by_git(tree, kept, [path for path, _ in there])
    assert ours == theirs, kept
