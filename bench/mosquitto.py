"""The peer: Mosquitto, as Debian packages it, with a configuration of its own.

It keeps messages in memory and writes them to disk every half hour and at its end (`persistence` with the default
`autosave_interval`): nothing is on disk when it answers. Its limits are lifted, so that it drops nothing.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from bench.server import Server

PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
ATTEMPTS = 3

CONFIG = """listener {port} 127.0.0.1
allow_anonymous true
user root
persistence true
persistence_location {folder}/
max_inflight_messages {window}
max_queued_messages 0
connection_messages false
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
"""


def version() -> str:
    """Such as `2.0.11`; empty where it is not installed."""
    if PROGRAM is None:
        return ""
    # its help ends with status 3
    shown = subprocess.run([PROGRAM, "-h"], capture_output=True, text=True, check=False).stdout
    return shown.partition("version ")[2].split("\n")[0].strip()


class Mosquitto(Server):
    """Mosquitto on a free port. It says nothing once it runs, unless it drops messages."""

    async def start(self) -> None:
        if PROGRAM is None:
            raise RuntimeError(
                "mosquitto is not installed: apt-get install mosquitto, or choose other --legs"
            )
        for _ in range(ATTEMPTS):
            said = await self._start(PROGRAM)
            if self.mqtt:
                return
            # another process may have taken the port
            if "Address already in use" not in said:
                break
        else:
            said = "no free port"
        raise RuntimeError(f"mosquitto did not start: {said}")

    async def _start(self, program: str) -> str:
        """One attempt; what it said."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = Path(self.folder.name) / "mosquitto.conf"
        config.write_text(CONFIG.format(port=port, folder=self.folder.name, window=self.window))
        stderr = await self.spawn(program, "-c", str(config))
        said = ""
        async for line in stderr:
            said += line.decode()
            if line.endswith(b" running\n"):
                self.mqtt = f"mqtt://127.0.0.1:{port}"
                self.drain(stderr)
                return said
        assert self.process is not None
        await self.process.wait()
        return said

    def token(self, client: str) -> str:
        """It looks at none, but gets as many bytes as the gateway does."""
        return client.ljust(160, ".")

    def topic_to(self, client: str) -> bytes:
        return f"gw/v1/m/{client}".encode()
