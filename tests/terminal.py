"""A pseudo-terminal that runs a script, and the screen that it displays."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(.)", re.DOTALL)


def run_in_terminal(script: str, columns: int, rows: int = 50) -> str:
    """Run a Python script with its three streams on a terminal, and return all that it wrote."""
    handle, inner = os.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=inner, stdout=inner, stderr=inner, env=environment
    )
    os.close(inner)

    written = b""
    while True:
        try:
            chunk = os.read(handle, 2**16)
        except OSError:  # the end of a terminal's output, on Linux
            break
        if not chunk:
            break
        written += chunk

    os.close(handle)
    assert process.wait() == 0, written.decode(errors="replace")
    return written.decode()


class Screen:
    """The content of a terminal.

    lines: current content. frames: the content before each erased line. wrapped: lines that were
    longer than the terminal is wide.
    """

    def __init__(self, columns: int):
        self.columns, self.row, self.column = columns, 0, 0
        self.cells: list[list[str]] = [[]]
        self.frames: list[list[str]] = []
        self.wrapped: list[str] = []

    @property
    def lines(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.cells]

    def write(self, text: str) -> "Screen":
        for match in SEQUENCE.finditer(text):
            number, command, character = match.groups()
            if character is not None:
                self._put(character)
            elif command == "A":
                self.row = max(0, self.row - int(number or 1))
            elif command == "K":
                self.frames.append(self.lines)
                self.cells[self.row] = []
            else:
                assert command in "mhl", f"unknown sequence {match.group()!r}"
        return self

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
            return

        if character != "\n" and self.column == self.columns:
            self.wrapped.append("".join(self.cells[self.row]))
            self.column = 0
            self._next_row()
        elif character == "\n":
            self._next_row()
            return

        line = self.cells[self.row]
        line += " " * (self.column + 1 - len(line))
        line[self.column] = character
        self.column += 1

    def _next_row(self) -> None:
        self.row += 1
        if self.row == len(self.cells):
            self.cells.append([])
