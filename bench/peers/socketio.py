"""Socket.IO with connection state recovery and its adapter in memory, on Node."""

import json
import subprocess
from pathlib import Path

from bench.peers.peer import Peer, program

PROGRAM = program("node")
FOLDER = Path(__file__).parent / "socketio"
PACKAGE = FOLDER / "node_modules/socket.io/package.json"


class SocketIo(Peer):
    """Socket.IO as shipped. `url`: `ws://host:port/socket.io/` once it listens."""

    name = "socketio"
    promises = (
        "nothing is ever on disk: it acknowledges what it has sent on; what it keeps in memory for recovery "
        "are emits without acknowledgement only, and these have one"
    )
    url = ""

    @classmethod
    def available(cls) -> str:
        if not PROGRAM:
            return "not installed: apt-get install nodejs npm"
        return (
            "" if PACKAGE.exists() else "not installed: npm ci --ignore-scripts --prefix bench/peers/socketio"
        )

    @classmethod
    def version(cls) -> str:
        if cls.available():
            return ""
        node = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
        return f"{json.loads(PACKAGE.read_text())['version']} on Node {node.strip().removeprefix('v')}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        script = FOLDER / "server.mjs"
        self.configuration = script.read_text()
        return [PROGRAM, str(script)], {"NODE_ENV": "production"}

    def listens(self, line: str) -> bool:
        _, found, where = line.partition("listening on ")
        if found:
            self.url = where.strip()
        return bool(found)
