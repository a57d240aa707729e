"""NATS with JetStream and its file store, as Debian packages it.

Each client has a stream of its own, with a durable consumer: one stream for all, with a subject and a consumer for each
client, costs it the more the more clients there are. A stream keeps what is acked, as streams do by default: to drop it
(`retention: workqueue`) costs it more, which would be no favour to it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, ClassVar

from bench.peers.peer import Peer, program

PROGRAM = program("nats-server")
# the first version whose configuration has `sync_interval`
SYNC_SINCE = (2, 10)

# port -1 is any that is free
CONFIG = """listen: "127.0.0.1:-1"
jetstream {{
  store_dir: "{folder}"
{sync}}}
"""
LISTENS = "Listening for client connections on "


class Nats(Peer):
    """NATS as shipped. `url`: `nats://host:port` once it listens."""

    name = "nats"
    promises = (
        "each message is written to its file when it acknowledges, but not synced: an fsync follows "
        "within a minute (two since 2.10), so a power cut loses what was acknowledged"
    )
    sync: ClassVar[str] = ""
    url = ""

    @classmethod
    def available(cls) -> str:
        return "" if PROGRAM else "not installed: apt-get install nats-server"

    @classmethod
    def version(cls) -> str:
        if not PROGRAM:
            return ""
        shown = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
        return shown.rpartition("v")[2].strip()

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        text = CONFIG.format(folder=self.folder.name, sync=self.sync)
        config = Path(self.folder.name) / "nats.conf"
        config.write_text(text)
        made = json.dumps(
            {"stream": self.stream("<client>"), "consumer": self.consumer("<client>")}, indent=1
        )
        self.configuration = f"{text}# made by each client\n{made}\n"
        return [PROGRAM, "-c", str(config)], {}

    def listens(self, line: str) -> bool:
        # it says where it listens before it serves, and this last
        _, found, where = line.partition(LISTENS)
        if found:
            self.url = f"nats://{where.strip()}"
        return "Server is ready" in line

    def stream(self, client: str) -> dict[str, Any]:
        """The configuration of the client's stream."""
        return {"name": client, "subjects": [f"to.{client}"], "storage": "file"}

    def consumer(self, client: str) -> dict[str, Any]:
        """The configuration of the client's consumer."""
        return {
            "durable_name": client,
            "deliver_subject": f"deliver.{client}",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "max_ack_pending": self.window,
        }

    def topic_to(self, client: str) -> bytes:
        return f"to.{client}".encode()


class NatsSync(Nats):
    """NATS that syncs each write."""

    name = "nats-sync"
    promises = "each message is written and synced to disk when it acknowledges (sync_interval: always)"
    sync = "  sync_interval: always\n"

    @classmethod
    def available(cls) -> str:
        missing = super().available()
        if missing:
            return missing
        version = cls.version()
        if tuple(map(int, version.split(".")[:2])) >= SYNC_SINCE:
            return ""
        return f"sync_interval came with nats-server 2.10; this is {version}"
