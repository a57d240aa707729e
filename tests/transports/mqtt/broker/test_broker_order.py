"""The order of a framed client's publishes when the broker sends its hello again."""

from tests.transports.mqtt.broker.rig import Device, Framed, Gateway


async def test_what_is_behind_a_publish_that_was_turned_away_is_turned_away(gateway: Gateway) -> None:
    """The broker sends the hello again to a gateway that was killed, and what followed it. What comes before the
    welcome is not applied; what comes behind that must not be either, or it would overtake it.
    """
    pubs = [{"t": "pub", "m": [{"ref": n, "to": "bob", "body": n, "key": f"k{n}"}]} for n in range(4)]
    alice = await Framed(gateway.broker, "alice").joined()
    carol = await Device(gateway.broker, "carol").connect()
    gateway.store.held = True
    # it has no PUBACK, so the hello behind it has none
    await carol.publish("dave", b"0")
    await gateway.until(lambda: gateway.figure("unacked") == 1)
    await alice.hello()
    alice.say(*pubs[:2])
    await gateway.until(lambda: gateway.figure("unacked") == 4)
    await gateway.crash()

    gateway.store.held = True
    await gateway.start()
    for _ in pubs[:2]:
        assert (await alice.hear("err"))["code"] == "hello_first"
    gateway.store.let_go()
    await alice.hear("welcome")
    # these were on their way
    alice.say(*pubs[2:])
    for _ in pubs[2:]:
        err = await alice.hear("err")
        assert (err["code"], err["c"]) == ("hello_first", "n1")

    # it does as it is told
    await alice.hello()
    for pub in pubs:
        await alice.pub(*pub["m"])
    assert await gateway.bodies("bob") == [0, 1, 2, 3]


async def test_a_client_that_does_not_wait_for_its_welcome(gateway: Gateway) -> None:
    """What it says itself too early is turned away; what comes later is its own business."""
    pub = {"ref": 1, "to": "bob", "body": 1}
    alice = await Framed(gateway.broker, "alice").open()
    gateway.store.held = True
    alice.say({"t": "hello"}, {"t": "pub", "m": [pub]})
    assert (await alice.hear("err"))["code"] == "hello_first"
    gateway.store.let_go()
    await alice.hear("welcome")
    await alice.pub(pub)


async def test_an_old_hello_that_nothing_follows(gateway: Gateway) -> None:
    """What comes when it was welcomed once more is applied."""
    alice = await Framed(gateway.broker, "alice").joined()
    carol = await Device(gateway.broker, "carol").connect()
    gateway.store.held = True
    await carol.publish("dave", b"0")
    await gateway.until(lambda: gateway.figure("unacked") == 1)
    await alice.hello()
    await gateway.crash()
    await gateway.start()
    await alice.hear("welcome")
    await alice.pub({"ref": 1, "to": "bob", "body": 1})
    await alice.pub({"ref": 2, "to": "bob", "body": 2})
    assert await gateway.bodies("bob") == [1, 2]
