"""`rlhf-dist label` as a process, for tests that ask it as browsers do."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"^  (\S+) +(http://\S+/)(?:operator)?#(\S+)$")
START_S = 30.0


class Server:
    """The command, started, with the links that it printed."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "rlhf_dist", "label", *words]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = []
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if "Ctrl-C" in line:
                break
        found = [match.groups() for match in map(LINK.match, self.said) if match]
        self.address = found[0][1] if found else ""
        self.tokens = {name: token for name, _, token in found}

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=START_S)
        return self.process.returncode, out, err

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.communicate()

    def link(self, name: str) -> str:
        """What is sent to a labeller, or kept by the operator."""
        return f"{self.address}{'operator' if name == 'operator' else ''}#{self.tokens[name]}"


def write(path: Path, count: int) -> Path:
    """A file of prompts with three answers each."""
    rows = [
        {"prompt": f"prompt {n}", "answers": [{"text": f"{n} {x}", "model": x} for x in "abc"]} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
