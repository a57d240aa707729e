"""Which way a message would go now, and why (`POST /v1/explain`). Nothing is stored."""

from typing import Any, Protocol

from gateway.auth.principal import Principal
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.hub.core import Core
from gateway.model import Chain, Extra, Hold, Item, Publish


class Checks(Protocol):
    """The part of the intake that says what a message must satisfy."""

    def check(self, principal: Principal, pub: Publish, now: int) -> Item: ...


def explain(core: Core, intake: Checks, principal: Principal, pub: Publish) -> dict[str, Any]:
    """The fields of the answer. Raises GatewayError like a publish."""
    now = core.now()
    item = intake.check(principal, pub, now)
    session = core.sessions.get(item.client)
    state = session.state if session is not None else State.NEW
    steps: list[str] = []
    if item.hold == Hold.LATER:
        steps.append(f"is kept until deliver_at ({item.due})")
    path = "queue"
    if session is not None and session.live:
        path = "live"
        if session.may_bind_now(session.conn.writable):
            steps.append("the client is online and its window is open: sent at once")
        else:
            steps.append(f"the client is online; {session.waiting} messages wait before it, by priority")
    elif core.brokered.rules(item.client):
        path = "custody"
        steps.append("the client is a broker's: published there once, and sent until another way settles it")
        custodian = core.brokered.custodian
        if custodian is not None and custodian.room() <= 0:
            steps.append("the broker takes no more at present: it waits")
    elif state == State.NEW:
        steps.append("the client was never connected: the message waits for it")
    else:
        steps.append("the client is offline: the message waits for it")
    chain = core.chain_of(item) if item.chain == Chain.READY else []
    source = "none"
    if chain:
        source = (
            "message" if pub.fallback is not None else "client" if _prefers(core, item.client) else "route"
        )
        if source == "route" and (rule := core.rule_of(item)) >= 0:
            source = f"routes.rules[{rule}]"
        starts = _chain_starts(core, item, session, now)
        if starts <= now:
            path = "chain"
            steps.append("its offline deadline has passed: handed over at once")
        elif path == "custody" and starts >= item.expire:
            steps.append("not handed over before it expires, unless the client is found to be away")
        elif path != "live" or pub.deadline is not None:
            steps.append(f"unless acked before, it is handed over at {starts}")
        else:
            steps.append("handed over if the client goes away for its offline deadline, or never acks")
    else:
        steps.append("no fallback chain: it waits until its ttl")
    return {
        "to": item.client,
        "state": state.name.lower(),
        "path": path,
        "why": steps,
        "fallback": chain,
        "fallback_from": source,
        "expires": item.expire,
        "priority": pub.priority,
        "queued_before": session.waiting if session is not None else 0,
    }


async def steps(core: Core, pub: Publish, chain: list[str]) -> list[dict[str, Any]]:
    """What each channel of the chain would do with the message now: whether it goes there, and why (not)."""
    told: list[dict[str, Any]] = []
    item = Item(0, pub.to, "", 0, 0, 0, None, Extra(type=pub.type))
    for channel in chain:
        address = core.address_of(pub.to, channel)
        if core.config.channels[channel].CONTACT and not address:
            told.append({"channel": channel, "goes": False, "why": "no address for this channel"})
            continue
        known = await core.store.suppressions_of(address) if address else []
        gate = core.person.gate(item, channel, core.now(), {address: known})
        step: dict[str, Any] = {"channel": channel, "goes": gate.open, "why": gate.why}
        told.append(step | {"until": gate.until} if gate.until else step)
    return told


def _prefers(core: Core, client: str) -> bool:
    row = core.clients.get(client)
    return row is not None and row.record.fallback is not None


def _chain_starts(core: Core, item: Item, session: Session | None, now: int) -> int:
    if item.x is not None and item.x.deadline is not None:
        return item.x.deadline
    start = item.due or now
    if core.brokered.rules(item.client):
        return core.brokered.starts(item.client, start) or item.expire
    if session is None or session.state == State.NEW:
        return start + core.offline_ms(item.client)
    if session.live:
        return item.expire
    return start if session.handed else max(start, session.offline_at)
