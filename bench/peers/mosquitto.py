"""Mosquitto, as Debian packages it, with a configuration of its own; its limits are lifted, so that it drops nothing.

It keeps messages in memory and writes all of them to disk every half hour and at its end (`persistence` with the
default `autosave_interval`), or, in the second variant, whenever something has changed.
"""

import subprocess
from pathlib import Path
from typing import ClassVar

from bench.peers.peer import Peer, free_port, program

PROGRAM = program("mosquitto")

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
AUTOSAVE = """autosave_on_changes true
autosave_interval 1
"""


class Mosquitto(Peer):
    """Mosquitto as shipped. It says little once it runs, unless it drops messages."""

    name = "mosquitto"
    promises = (
        "nothing is on disk when it acknowledges: it writes its messages every half hour and at its end"
    )
    mqtt5 = True
    autosave: ClassVar[str] = ""
    port = 0

    @classmethod
    def available(cls) -> str:
        return "" if PROGRAM else "not installed: apt-get install mosquitto"

    @classmethod
    def version(cls) -> str:
        if not PROGRAM:
            return ""
        # its help ends with status 3
        shown = subprocess.run([PROGRAM, "-h"], capture_output=True, text=True, check=False).stdout
        return shown.partition("version ")[2].split("\n")[0].strip()

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self.port = free_port()
        folder = self.folder.name
        self.configuration = CONFIG.format(port=self.port, folder=folder, window=self.window) + self.autosave
        config = Path(folder) / "mosquitto.conf"
        config.write_text(self.configuration)
        return [PROGRAM, "-c", str(config)], {}

    def listens(self, line: str) -> bool:
        if not line.endswith(" running\n"):
            return False
        self.mqtt = f"mqtt://127.0.0.1:{self.port}"
        return True


class MosquittoAutosave(Mosquitto):
    """Mosquitto that writes after each change."""

    name = "mosquitto-autosave"
    promises = (
        "nothing is on disk when it acknowledges: after each turn of its loop that changed something it writes its "
        "whole database anew and syncs it"
    )
    autosave = AUTOSAVE
