"""RabbitMQ with its MQTT plugin, as Debian packages it, in directories of its own and as the user who runs the bench.

Its own accounts would have to hold every device, so a backend that lets everybody in stands in their place.
"""

import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.clients.mqtt import PACKET_IDS, MqttPipeline
from bench.peers.peer import Peer, free_port, program
from bench.pipeline import Body
from gateway.transports.mqtt.codec import Packet

HOME = next(iter(sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"), reverse=True)), None)
ERLC = program("erlc")
EPMD = program("epmd")

# Erlang's port mapper is a child of it, not the daemon that the first Erlang of a machine leaves behind
START = """
"$0" >/dev/null 2>&1 &
until timeout 1 "$0" -names >/dev/null 2>&1; do
    kill -0 $! || { echo "epmd: address already in use" >&2; exit 1; }
    sleep 0.05
done
exec "$1"
"""

CONFIG = """listeners.tcp = none
mqtt.listeners.tcp.1 = 127.0.0.1:{port}
mqtt.prefetch = {window}
auth_backends.1 = bench_auth
log.connection.level = error
"""
PLUGINS = "[rabbitmq_mqtt].\n"
AUTH = """-module(bench_auth).
-export([user_login_authentication/2, user_login_authorization/2, state_can_expire/0,
         check_vhost_access/3, check_resource_access/4, check_topic_access/4]).

user_login_authentication(Name, _) -> {ok, {auth_user, Name, [], none}}.
user_login_authorization(_, _) -> {ok, none}.
state_can_expire() -> false.
check_vhost_access(_, _, _) -> true.
check_resource_access(_, _, _, _) -> true.
check_topic_access(_, _, _, _) -> true.
"""


class RabbitMq(Peer):
    """RabbitMQ as shipped: a durable classic queue for each device."""

    name = "rabbitmq"
    promises = (
        "the queue's journal is synced to disk (fsync) when it acknowledges, unless the device has acked the message "
        "before; the order of its acknowledgements is not that of the publishes"
    )
    port = 0

    @classmethod
    def available(cls) -> str:
        return "" if HOME and ERLC and EPMD else "not installed: apt-get install rabbitmq-server"

    @classmethod
    def version(cls) -> str:
        return HOME.name.rpartition("-")[2] if HOME else ""

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        folder = Path(self.folder.name)
        self.port = free_port()
        config = CONFIG.format(port=self.port, window=self.window)
        self.configuration = f"# rabbitmq.conf\n{config}# enabled_plugins\n{PLUGINS}# bench_auth.erl\n{AUTH}"
        for name, text in {
            "rabbitmq.conf": config,
            "enabled_plugins": PLUGINS,
            "bench_auth.erl": AUTH,
            ".erlang.cookie": secrets.token_hex(),
        }.items():
            (folder / name).write_text(text)
        (folder / ".erlang.cookie").chmod(0o400)
        subprocess.run([ERLC, "-o", folder, folder / "bench_auth.erl"], check=True)
        command = ["/bin/sh", "-c", START, EPMD, f"{HOME}/sbin/rabbitmq-server"]
        return command, {
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_NODENAME": f"{folder.name}@localhost",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-stderr",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-start_epmd false -pa {folder} -kernel inet_dist_use_interface {{127,0,0,1}}"
            ),
        }

    def listens(self, line: str) -> bool:
        if "Server startup complete" not in line:
            return False
        self.mqtt = f"mqtt://127.0.0.1:{self.port}"
        return True


class RabbitMqPipeline(MqttPipeline):
    """PUBACKs in any order: it sends each when that device's queue has the message (not in MQTT 3.1.1, section 4.6)."""

    async def connect(self) -> None:
        await super().connect()
        # the packet ids of each publisher that wait for their PUBACK
        self.waiting: list[set[int]] = [set() for _ in self.senders]

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        first = self.written[publisher]
        self.waiting[publisher].update(n % PACKET_IDS + 1 for n in range(first, first + len(batch)))
        super().send(publisher, batch)

    def _answers(self, publisher: int) -> Callable[[list[Packet]], None]:
        def on_packets(packets: list[Packet]) -> None:
            waiting = self.waiting[publisher]
            for packet in packets:
                if isinstance(packet, int) and packet in waiting:
                    waiting.remove(packet)
                else:
                    self.fault(f"{packet!r} is no PUBACK that was due")
            self.answered(publisher, len(packets))

        return on_packets
