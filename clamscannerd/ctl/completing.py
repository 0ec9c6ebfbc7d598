"""What the shells complete of an argument that names files: those that are there, and words that may stand for them.

The name itself is taken as it comes, bytes and all, as with click's UNPROCESSED, of which a shell completes nothing.
The scan types are those that are there by default: to ask the daemon at each Tab would take longer than to type them.
"""

from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem
from click.types import UnprocessedParamType

SCAN_TYPES = ("home", "mail", "public_html", "public_ftp")


class Names(UnprocessedParamType):
    """`kind`: "file" or "dir", in click's words; `words` come first."""

    def __init__(self, kind: str = "file", words: Sequence[str] = ()) -> None:
        self._kind = kind
        self._words = words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The shell itself looks for files: in bash if this comes first, in zsh if it is not empty."""
        words = [CompletionItem(word) for word in self._words if word.startswith(incomplete)]
        return [CompletionItem(incomplete or "./", type=self._kind), *words]
