"""Break the product on purpose, and see that the tests notice: `tests/run --mutations [NAME|FILE.toml...]`.

Each table of tests/mutations/*.toml is one deliberately broken build:

    [no-nofollow]
    why = "opens follow links"
    edits = [{ file = "clamscannerd/worker/beneath.py", old = "...", new = "..." }]

`old` stands exactly once in the file. The tests marked `@pytest.mark.fails_with("no-nofollow")` are run against it, in
a copy of the tree; each of these functions has to fail, with at least one of its parameters, in what it asserts: not in
its set-up. A race may be missed once, so there are three tries. Exit code 0 when every mutation was noticed.
"""

import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
TRIES = 3
TEST_S = 900.0


class Edit(NamedTuple):
    file: str
    old: str
    new: str


class Mutation(NamedTuple):
    """One broken build."""

    name: str
    why: str
    edits: tuple[Edit, ...]


def mutations(files: list[Path] | None = None) -> list[Mutation]:
    """Those of these files, or all."""
    found = []
    for file in files or sorted((ROOT / "tests/mutations").glob("*.toml")):
        for name, table in tomllib.loads(file.read_text()).items():
            edits = tuple(Edit(edit["file"], edit["old"], edit["new"]) for edit in table["edits"])
            found.append(Mutation(name, table["why"], edits))
    return found


def mutated(mutation: Mutation) -> dict[Path, str]:
    """Path -> text of the broken files. AssertionError where the tree has another text by now."""
    texts: dict[Path, str] = {}
    for edit in mutation.edits:
        path = ROOT / edit.file
        text = texts.get(path, path.read_text())
        assert text.count(edit.old) == 1, f"{mutation.name}: not exactly once in {edit.file}: {edit.old!r}"
        texts[path] = text.replace(edit.old, edit.new)
    return texts


def survivors(name: str) -> list[str] | None:
    """Test functions that passed nevertheless; None when none was found to run."""
    report = ROOT / ".mutation.xml"
    report.unlink(missing_ok=True)
    words = [sys.executable, "-m", "pytest", "-q", f"--fails-with={name}", f"--junitxml={report}"]
    run = subprocess.run([*words, "tests"], cwd=ROOT, capture_output=True, text=True, timeout=TEST_S, check=False)
    results: dict[str, list[bool]] = defaultdict(list)
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  our own
            function = f"{case.get('classname')}.{str(case.get('name')).partition('[')[0]}"
            results[function].append(case.find("failure") is not None)
        report.unlink()
    if not results:
        sys.stdout.write(run.stdout[-2000:] + run.stderr[-2000:])
        return None
    return [function for function, failed in results.items() if not any(failed)]


def main(words: list[str]) -> int:
    files = [Path(word) for word in words if word.endswith(".toml")]
    names = {word for word in words if not word.endswith(".toml")}
    chosen = [one for one in mutations(files or None) if not names or one.name in names]
    unnoticed = 0
    for mutation in chosen:
        texts = mutated(mutation)
        before = {path: path.read_bytes() for path in texts}
        left: list[str] | None = None
        try:
            for path, text in texts.items():
                path.write_text(text)
            for _ in range(TRIES):
                left = survivors(mutation.name)
                if left == []:
                    break
        finally:
            for path, content in before.items():
                path.write_bytes(content)
        unnoticed += left != []
        said = "noticed" if left == [] else "NO TEST" if left is None else f"NOT NOTICED by {', '.join(left)}"
        sys.stdout.write(f"{mutation.name}: {said} ({mutation.why})\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - unnoticed} of {len(chosen)} mutations noticed\n")
    return int(unnoticed > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
