"""The progress bar of commands: one line on a terminal."""

from __future__ import annotations

import shutil
from typing import Any, Final

#: Width of the bar, in characters.
BAR: Final = 28


class ProgressLine:
    """One line on a terminal, drawn over itself; nothing where stderr is no terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._shown = ""
        self._terminal = bool(getattr(stream, "isatty", lambda: False)())

    def __call__(self, line: str, percent: float | None) -> None:
        """Show a line and, where it is known, how much is done, 0 to 100."""
        if not self._terminal or line == self._shown:
            return
        self._shown = line
        filled = round(BAR * (percent or 0) / 100)
        bar = "█" * filled + "░" * (BAR - filled)
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\033[K{bar} {line}"[: width + 4], ending="")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line to whatever is printed next."""
        if self._shown:
            self._stream.write("\r\033[K", ending="")
            self._stream.flush()
