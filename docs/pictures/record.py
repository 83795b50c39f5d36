"""Draws what a command really printed, as a terminal: python docs/pictures/record.py OUT.svg sage demo --ask …"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 108


def main() -> None:
    out, *command = sys.argv[1:]
    environment = {
        **os.environ,
        "COLUMNS": str(WIDTH),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        console.print(
            Text("$ " + " ".join(f'"{word}"' if " " in word else word for word in command), style="bold")
        )
        console.print(Text(done.stdout.rstrip()))
        picture = console.export_svg(title="sage", theme=MONOKAI)
        Path(out).write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")


main()
