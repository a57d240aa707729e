"""The tables of the listeners: the inner one, and those that clients connect to."""

from typing import Annotated, Literal

from gateway.config.table import KIB, MIB, Table, about


class Http(Table, frozen=True, kw_only=True):
    """The inner side: API, metrics. Keep it inside."""

    listen: Annotated[str, about("where to listen, `host:port` or `[v6]:port`; port 0 takes a free one")] = (
        "127.0.0.1:8081"
    )
    tls_cert: Annotated[str, about("PEM file with the certificate chain; empty: no TLS")] = ""
    tls_key: Annotated[str, about("PEM file with the private key")] = ""
    max_header_bytes: Annotated[
        int, about("size of one header line of a request: 400 above it", "bytes", ge=KIB, le=MIB)
    ] = 16 * KIB
    max_body_bytes: Annotated[
        int,
        about(
            "size of a request body: 413 above it; an NDJSON stream may be longer",
            "bytes",
            ge=KIB,
            le=1024 * MIB,
        ),
    ] = 16 * MIB


class Callbacks(Table, frozen=True, kw_only=True):
    """Where providers report, `/v1/callbacks/{channel}`: a listener of its own, so that the rest stays inside."""

    listen: Annotated[
        str,
        about(
            "where to listen, `host:port` or `[v6]:port`; port 0 takes a free one; empty: no callbacks are taken"
        ),
    ] = ""
    public_url: Annotated[
        str,
        about(
            "what providers call: https, without the path above, such as `https://callbacks.example.org`; they "
            "sign it",
            max_length=1024,
        ),
    ] = ""
    tls_cert: Annotated[str, about("PEM file with the certificate chain; empty: no TLS")] = ""
    tls_key: Annotated[str, about("PEM file with the private key")] = ""
    max_connections: Annotated[
        int, about("open connections at once: 503 above it", "connections", ge=1, le=100_000)
    ] = 1000
    max_header_bytes: Annotated[
        int, about("size of one header line of a request: 400 above it", "bytes", ge=KIB, le=MIB)
    ] = 16 * KIB
    max_body_bytes: Annotated[
        int, about("size of a request body: 413 above it", "bytes", ge=KIB, le=16 * MIB)
    ] = MIB


class Websocket(Table, frozen=True, kw_only=True):
    """The outer side: `/ws` and `/healthz`."""

    listen: Annotated[str, about("where to listen, `host:port` or `[v6]:port`; port 0 takes a free one")] = (
        "127.0.0.1:8080"
    )
    origins: Annotated[
        tuple[str, ...],
        about(
            "what a browser's Origin may be, such as `https://app.example`; others get 403. Bots send no Origin"
        ),
    ] = ()
    tls_cert: Annotated[str, about("PEM file with the certificate chain; empty: no TLS")] = ""
    tls_key: Annotated[str, about("PEM file with the private key")] = ""
    compression: Annotated[
        bool, about("offer permessage-deflate; costs CPU and tens of KiB a connection")
    ] = False
    max_connections: Annotated[
        int, about("open connections at once: 503 above it", "connections", ge=1, le=1_000_000)
    ] = 20_000
    handshakes_per_second: Annotated[
        float,
        about("handshakes from one address, in the long run: 429 above it", "per second", ge=0.01, le=1e6),
    ] = 100.0
    handshake_burst: Annotated[
        int, about("handshakes from one address at once", "handshakes", ge=1, le=1_000_000)
    ] = 1000
    hello_timeout: Annotated[
        float,
        about("time for the opening handshake, and then for `hello`: close 4004", "s", ge=0.05, le=300),
    ] = 5.0
    buffer_limit: Annotated[
        int, about("written but not taken by the peer, a connection", "bytes", ge=4 * KIB, le=256 * MIB)
    ] = MIB
    stall_timeout: Annotated[
        float, about("how long a peer may take nothing of a full buffer: close 4001", "s", ge=0.05, le=3600)
    ] = 10.0
    trusted_proxies: Annotated[
        tuple[str, ...],
        about("networks whose `X-Forwarded-For` names the client's address, such as `10.0.0.0/8`"),
    ] = ()


class Broker(Table, frozen=True, kw_only=True):
    """An MQTT 5 broker in front of clients, beside or instead of the gateway's own endpoint."""

    url: Annotated[
        str,
        about(
            "`mqtt://user:password@host:1883`, or `mqtts://`; empty: no broker",
            hide="password",
            max_length=1024,
        ),
    ] = ""
    ca_file: Annotated[str, about("PEM file with who may sign its certificate; empty: the system's")] = ""
    client_id: Annotated[
        str,
        about(
            "what the client ids of this gateway at the broker begin with: its sessions there are durable",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z",
        ),
    ] = "bot-gateway"
    links: Annotated[
        Literal[1, 2, 4, 8, 16, 32, 64],
        about(
            "durable sessions at the broker; each serves its share of the 64 parts of the clients", "sessions"
        ),
    ] = 4
    session_expiry: Annotated[
        int,
        about(
            "how long the broker keeps what clients send while the gateway is away", "s", ge=60, le=604_800
        ),
    ] = 86_400
    receive_maximum: Annotated[
        int, about("messages of a link that are not committed yet", "messages", ge=1, le=65535)
    ] = 1000
    keep_alive: Annotated[int, about("between two signs of life at the most", "s", ge=2, le=3600)] = 30
    max_clients: Annotated[
        int, about("framed clients at once: `err` 429 with `close` above it", "clients", ge=1, le=1_000_000)
    ] = 20_000
    buffer_limit: Annotated[
        int,
        about(
            "written but not taken by the broker, a link; above it messages wait in the store",
            "bytes",
            ge=64 * KIB,
            le=1024 * MIB,
        ),
    ] = 16 * MIB
    presence: Annotated[
        Literal["none", "mosquitto", "emqx"],
        about(
            "where it tells who is connected: Mosquitto's log topic, or EMQX's client events; `none`: framed "
            "clients tell it themselves"
        ),
    ] = "none"


class Mqtt(Table, frozen=True, kw_only=True):
    """The gateway's own MQTT endpoint, 3.1.1 and 5; also at `/mqtt` of the WebSocket listener."""

    listen: Annotated[
        str,
        about(
            "where to listen, `host:port` or `[v6]:port`; port 0 takes a free one; empty: no endpoint, nor `/mqtt`"
        ),
    ] = "127.0.0.1:1883"
    tls_cert: Annotated[str, about("PEM file with the certificate chain; empty: no TLS")] = ""
    tls_key: Annotated[str, about("PEM file with the private key")] = ""
    prefix: Annotated[
        str,
        about(
            "first levels of all topics",
            pattern=r"^[A-Za-z0-9._-]{1,32}(/[A-Za-z0-9._-]{1,32}){0,3}\Z",
        ),
    ] = "gw/v1"
    max_connections: Annotated[
        int, about("open connections at once: CONNACK 0x97 above it", "connections", ge=1, le=1_000_000)
    ] = 20_000
    connects_per_second: Annotated[
        float,
        about(
            "connects from one address, in the long run: CONNACK 0x9F above it", "per second", ge=0.01, le=1e6
        ),
    ] = 100.0
    connect_burst: Annotated[
        int, about("connects from one address at once", "connects", ge=1, le=1_000_000)
    ] = 1000
    connect_timeout: Annotated[
        float, about("time for TLS, and then for CONNECT: the socket is closed", "s", ge=0.05, le=300)
    ] = 5.0
    receive_maximum: Annotated[
        int,
        about(
            "QoS 1 publishes of a device without their PUBACK: above it the socket is not read",
            "publishes",
            ge=1,
            le=65535,
        ),
    ] = 256
    max_packet_bytes: Annotated[
        int, about("size of a packet from a device: DISCONNECT 0x95", "bytes", ge=KIB, le=256 * MIB)
    ] = MIB
    topic_alias_maximum: Annotated[
        int, about("topic aliases of a device (MQTT 5): DISCONNECT 0x94", "aliases", ge=0, le=1024)
    ] = 16
    max_keep_alive: Annotated[
        int,
        about(
            "longest keep alive; a device with MQTT 5 that asks for a longer one, or none, is told this",
            "s",
            ge=1,
            le=65535,
        ),
    ] = 300
    max_subscriptions: Annotated[
        int, about("topic filters in one SUBSCRIBE: 0x97 for those above it", "filters", ge=1, le=1024)
    ] = 8
    buffer_limit: Annotated[
        int, about("written but not taken by the device, a connection", "bytes", ge=4 * KIB, le=256 * MIB)
    ] = MIB
    stall_timeout: Annotated[
        float,
        about("how long a device may take nothing of a full buffer: DISCONNECT 0x97", "s", ge=0.05, le=3600),
    ] = 10.0
    server_reference: Annotated[
        str,
        about(
            "where a drain sends devices with MQTT 5 (`Server Reference`), such as `gw2:1883`", max_length=256
        ),
    ] = ""
    broker: Annotated[Broker, about("a broker")] = Broker()
