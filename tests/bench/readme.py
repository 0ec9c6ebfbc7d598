"""The README's table of figures: between two marks, and replaced as a whole or row by row. Pure.

A row is named by its first cell. New rows stand where the first old one of their name stood, and at the end where
there was none; with `keep`, rows that were not measured this time stay. So one bench can be run again alone.
"""

from tests.bench.common import HEADER

BEGIN, END = "<!-- figures: written by tests/bench/run -->", "<!-- end of figures -->"


def with_rows(text: str, rows: list[str], machine: str, *, keep: bool) -> str:
    """The README with these lines of the table, and what they were measured on. ValueError: it has no marks."""
    head, begin, rest = text.partition(BEGIN)
    block, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("cannot write the figures: the README has no place marked for them")
    head_lines = HEADER.splitlines()
    old = [line for line in block.splitlines() if line.startswith("| ") and line not in head_lines]
    table = "\n".join([*head_lines, *merged(old if keep else [], rows)])
    return f"{head}{begin}\nMeasured on {machine}.\n\n{table}\n{end}{tail}"


def merged(old: list[str], new: list[str]) -> list[str]:
    """The lines of the table."""
    by_name: dict[str, list[str]] = {}
    for line in new:
        by_name.setdefault(_name(line), []).append(line)
    lines: list[str] = []
    placed: set[str] = set()
    for line in old:
        name = _name(line)
        if name not in by_name:
            lines.append(line)
        elif name not in placed:
            placed.add(name)
            lines += by_name[name]
    return lines + [line for name, group in by_name.items() if name not in placed for line in group]


def _name(line: str) -> str:
    return line.split("|")[1].strip()
