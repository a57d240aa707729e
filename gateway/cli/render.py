"""Messages and clients as people read them."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from gateway.cli.output import clean, moment, shown, span
from gateway.cli.shapes import ChannelView, ClientView, Message, Step

_STYLE = {
    "delivered": "green",
    "read": "green",
    "provider_delivered": "green",
    "provider_read": "green",
    "expired": "yellow",
    "cancelled": "yellow",
    "dead": "red",
}
_PRESENCE = {"online": "green", "suspect": "yellow"}
# what a list shows of a reason
SHORT = 60


def status(message: Message) -> Text:
    """`delivered via ws`, `dead: unacked`."""
    text = clean(message.status)
    if message.via:
        text += f" via {clean(message.via)}"
    if message.why:
        text += f": {clean(message.why)}"
    return Text(text, _STYLE.get(message.status, "cyan"))


def message_tree(message: Message) -> Tree:
    """A message, where it stands, and each step with the time since it was accepted."""
    tree = Tree(Text.assemble((message.id, "bold"), "  ", status(message)), guide_style="dim")
    for name, value in _facts(message):
        tree.add(Text.assemble((f"{name} ", "dim"), clean(value)))
    timeline = tree.add(Text(f"accepted {moment(message.at)}", "dim"))
    for step in message.timeline:
        timeline.add(_step(step, message.at))
    if message.chain is not None:
        chain = message.chain
        told = f"channel {chain.channel} of {', '.join(chain.channels)}: {chain.state}"
        if chain.next_attempt_at is not None:
            told += f", next attempt {moment(chain.next_attempt_at)}"
        tree.add(Text(clean(told), "yellow"))
    return tree


def _facts(message: Message) -> Iterator[tuple[str, str]]:
    """The rest, as far as there is any."""
    way = f"{message.to}  from {message.sender}  {message.priority}"
    yield "to", way + (f"  type {message.type}" if message.type else "")
    yield "body", shown(message.body) if message.body is not UNSET else "(not kept any more)"
    if message.meta:
        yield "meta", shown(message.meta)
    if message.fallback is not None:
        yield "fallback", ", ".join(message.fallback) or "none"
    if message.not_before is not None:
        yield "not before", moment(message.not_before)
    if message.deadline_at is not None:
        yield "deadline", moment(message.deadline_at)
    if message.expires_at:
        yield "expires", moment(message.expires_at)
    if message.redelivered:
        yield "redelivered", str(message.redelivered)
    if message.replay_of:
        yield "replay of", message.replay_of
    if message.replayed_as:
        yield "replayed as", message.replayed_as
    if message.trace:
        yield "trace", message.trace


def _step(step: Step, start: int) -> Text:
    text = Text.assemble(
        (f"+{span(step.at - start)}  ", "dim"), (clean(step.event), _STYLE.get(step.event, ""))
    )
    data = dict(step.data or {})
    told = [f"via {step.via}"] if step.via else []
    if step.why:
        told.append(step.why)
    if "channel" in data and "n" in data:
        told.append(f"{data.pop('n')} on {data.pop('channel')}")
    after = data.pop("next", None)
    told += [f"{name} {_scalar(value)}" for name, value in data.items()]
    if isinstance(after, dict) and isinstance(after.get("at"), int):
        told.append(f"next on {after.get('channel', '')} in {span(after['at'] - step.at)}")
    return text.append("  " + clean(", ".join(told))) if told else text


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def message_table(messages: Iterable[Message]) -> Table:
    """Dead letters, one a row."""
    table = _table("id", "to", "from", "ended", "why", "replayed as")
    for message in messages:
        why = message.why if len(message.why) <= SHORT else message.why[: SHORT - 1] + "…"
        cells = (message.to, message.sender, moment(message.status_at), why, message.replayed_as or "")
        table.add_row(Text(message.id, "bold"), *map(clean, cells))
    return table


def channel_table(channels: Iterable[ChannelView]) -> Table:
    """Channels, one a row."""
    table = _table("channel", "kind", "breaker", "under way", "waiting", "last hour", "paused until")
    for channel in channels:
        hour = ", ".join(f"{count} {kind}" for kind, count in channel.last_hour.items() if count)
        table.add_row(
            Text(channel.name, "bold"),
            channel.kind,
            Text(channel.breaker, "" if channel.breaker == "closed" else "red"),
            str(channel.in_flight),
            str(channel.waiting),
            hour,
            moment(channel.paused_until) if channel.paused_until else "",
        )
    return table


def client_table(clients: Iterable[ClientView]) -> Table:
    """Clients, one a row."""
    table = _table("client", "status", "via", "queued", "in flight", "last heard of")
    for client in clients:
        session = client.session
        table.add_row(
            Text(client.client, "bold"),
            _presence(client),
            clean(client.via or ""),
            str(client.queued),
            str(session.in_flight if session is not None else 0),
            moment(client.last_proof) if client.last_proof else "",
        )
    return table


def client_tree(client: ClientView) -> Tree:
    """A client: presence, session, queue, record."""
    tree = Tree(Text.assemble((client.client, "bold"), "  ", _presence(client)), guide_style="dim")
    facts = [("queued", str(client.queued))]
    if client.session is not None:
        session = client.session
        facts.append(
            ("session", f"epoch {session.epoch}, next seq {session.next}, {session.in_flight} in flight")
        )
    if client.via:
        facts.append(("via", client.via))
    if client.last_proof:
        facts.append(("last heard of", moment(client.last_proof)))
    if client.away_since:
        facts.append(("away since", moment(client.away_since)))
    if client.not_before:
        facts.append(("tokens not before", moment(client.not_before * 1000)))
    if client.banned_until:
        facts.append(("banned until", moment(client.banned_until)))
    if client.record:
        facts.append(("record", shown(client.record)))
    for name, value in facts:
        tree.add(Text.assemble((f"{name} ", "dim"), clean(value)))
    return tree


def _presence(client: ClientView) -> Text:
    return Text(clean(client.status), _PRESENCE.get(client.status, "dim"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
