"""What the store and the hub know, in the shapes of the API."""

from typing import Any

from msgspec import UNSET, Raw

from gateway.api.base import HubApi
from gateway.api.schemas import ChainOut, ClientOut, Message, MqttSettings, SessionOut, Step
from gateway.commit import Event, MessageView
from gateway.config import Mqtt
from gateway.ids import encode_id
from gateway.model import PRIORITIES, STATUS_NAMES, Hold, Phase
from gateway.records import ClientRecord
from gateway.topics import TopicNames, part_of
from gateway.wire import trace_of

_STATES = {Phase.WAIT: "waiting", Phase.OPEN: "open", Phase.PARKED: "parked", Phase.RECEIPT: "receipt"}


def message(view: MessageView, root: str, *, whole: bool) -> Message:
    """A message as the API shows it. `whole`: with body and timeline. `root`: the hub's trace root."""
    item = view.item
    steps = timeline(view)
    out = Message(
        id=encode_id(item.id),
        to=item.client,
        sender=item.sender,
        at=item.at,
        status=STATUS_NAMES[item.status],  # type: ignore[arg-type]
        status_at=view.ended_at or steps[-1].at,
        priority=PRIORITIES[item.lane],
        expires_at=item.expire,
        trace=trace_of(item, root),
        not_before=item.due if item.hold == Hold.LATER else None,
        via=item.via,
        why=item.why,
        seq=item.seq,
        redelivered=item.marks,
        unacked=item.tries,
        crashes=item.crashes,
        replayed_as=encode_id(view.replayed) if view.replayed else None,
        chain=_chain(view),
    )
    x = item.x
    if x is not None:
        out.type = x.type
        out.meta = x.meta
        out.deadline_at = x.deadline
        out.fallback = x.fallback
        out.notify = x.notify
        out.collapse = x.collapse
        out.reply_to = x.reply_to
        out.correlation = x.correlation
        out.possible_dup = x.possible_dup
        out.replay_of = x.replay_of
    if whole:
        out.body = Raw(item.body) if item.body is not None else UNSET
        out.timeline = steps
    return out


def timeline(view: MessageView) -> list[Step]:
    """Every step in the order of time: what the row says, and its events."""
    item = view.item
    steps = [Step(at=item.at, event="queued")]
    if view.sent_at:
        steps.append(Step(at=view.sent_at, event="sent"))
    steps += [_step(event) for event in view.events]
    if view.ended_at:
        name = STATUS_NAMES[item.status]
        if not any(step.at == view.ended_at and step.event == name for step in steps):
            steps.append(Step(at=view.ended_at, event=name, via=item.via, why=item.why))
    steps.sort(key=lambda step: step.at)
    return steps


def _step(event: Event) -> Step:
    data: dict[str, Any] = dict(event.data) if event.data else {}
    via, why = data.pop("via", ""), data.pop("why", "")
    return Step(at=event.at, event=event.kind, via=str(via), why=str(why), data=data or None)


def _chain(view: MessageView) -> ChainOut | None:
    row = view.chain_row
    if row is None:
        return None
    return ChainOut(
        channels=row.channels,
        channel=row.channel,
        state=_STATES[Phase(row.phase)],  # type: ignore[arg-type]
        why=row.why,
        attempts=row.total,
        next_attempt_at=row.due if row.phase == Phase.WAIT else UNSET,
        receipt_until=row.due if row.phase == Phase.RECEIPT else UNSET,
        ambiguous=row.burnt,
    )


def client(hub: HubApi, name: str) -> ClientOut:
    """A client as the API shows it. Raises KeyError where neither a session nor a record is known."""
    row = hub.client_row(name)
    try:
        known = hub.presence(name)
    except KeyError:
        if row is None:
            raise
        known = {}
    epoch = known.get("epoch")
    return ClientOut(
        client=name,
        status=known.get("status", "unknown"),
        queued=known.get("queued", 0),
        record=row.record if row is not None else ClientRecord(),
        last_proof=known.get("last_proof") or None,
        away_since=known.get("away_since") or None,
        offline_at=known.get("offline_at") or None,
        handed_over=known.get("handed_over", False),
        via=known.get("via") or None,
        session=None
        if not epoch
        else SessionOut(
            epoch=epoch,
            next=known.get("next", 1),
            in_flight=known.get("in_flight", 0),
            window=known.get("window") or None,
        ),
        not_before=row.not_before if row is not None else 0,
        banned_until=row.banned_until if row is not None else 0,
    )


def mqtt(config: Mqtt, name: str) -> MqttSettings | None:
    """How a client comes to the gateway's own MQTT endpoint; None where that is off."""
    if not config.listen:
        return None
    names = TopicNames(config.prefix)
    return MqttSettings(
        client_id=name, username=name, part=part_of(name), plain=names.plain(name), framed=names.framed(name)
    )
