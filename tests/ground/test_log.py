"""The log: JSON or console, never a secret or a body."""

import io
import logging
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from gateway.config import Config, Log
from gateway.observe.log import get_logger, setup

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


class Out(io.StringIO):
    """Standard error, a terminal or not."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def lines(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(line) for line in self.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def started(log: Log | None = None, terminal: bool = False) -> Out:
    out = Out(terminal)
    setup(log or Log(), out)
    return out


def test_a_line_is_json_with_time_level_and_origin() -> None:
    out = started()
    get_logger("hub").info("stored", message="0ABC", trace="00-1", n=3)
    (line,) = out.lines()
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "component": "hub",
        "event": "stored",
        "level": "info",
        "message": "0ABC",
        "trace": "00-1",
        "n": 3,
    }


@pytest.mark.parametrize(
    ("form", "terminal", "json"),
    [("auto", True, False), ("auto", False, True), ("console", False, False), ("json", True, True)],
)
def test_people_get_a_console_and_machines_json(form: str, terminal: bool, json: bool) -> None:
    out = started(msgspec.convert({"format": form}, Log), terminal)
    get_logger("hub").info("stored")
    assert out.getvalue().startswith("{") == json
    assert ("\x1b[" in out.getvalue()) == (terminal and not json)


def test_lines_below_the_level_are_not_written() -> None:
    out = started(Log(level="warning"))
    log = get_logger("hub")
    log.debug("no")
    log.info("no")
    log.warning("yes")
    assert [line["event"] for line in out.lines()] == ["yes"]


@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "jwt_secret",
        "token",
        "resume_token",
        "Authorization",
        "password",
        "body",
        "set-cookie",
        "api_key",
    ],
)
@pytest.mark.parametrize("form", ["json", "console"])
def test_what_stands_under_a_telling_key_is_masked(key: str, form: str) -> None:
    out = started(msgspec.convert({"format": form}, Log))
    log = get_logger("hub")
    values = ["hunter2", b"hunter2", ["hunter2"], {"a": "hunter2"}, bytearray(b"hunter2"), object]
    for value in values:
        log.info("x", **{key: value}, deep={"list": [{key: value}], "tuple": ({key: value},)})
    assert "hunter2" not in out.getvalue()
    assert out.getvalue().count("•••") == 3 * len(values)


def test_sizes_are_shown() -> None:
    out = started()
    get_logger("hub").info("x", body_bytes=12, tokens=None, deep={"body_bytes": 3})
    line = out.lines()[0]
    assert (line["body_bytes"], line["tokens"], line["deep"]) == (12, None, {"body_bytes": 3})


@pytest.mark.parametrize(
    "text", [JWT, "whsec_QUJDQUJD", "Authorization: Bearer backend.hunter2", "bearer hunter2"]
)
@pytest.mark.parametrize("form", ["json", "console"])
def test_credentials_are_cut_from_text_and_tracebacks(text: str, form: str) -> None:
    out = started(msgspec.convert({"format": form}, Log))
    log = get_logger("hub")
    log.info("got %s", text, why=text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    for cut in ("hunter2", "eyJ", "whsec_"):
        assert cut not in out.getvalue()
    assert "ValueError" in out.getvalue()


def test_tracebacks_show_no_locals() -> None:
    out = started(Log(format="console"))
    local = "hunter" + "2"
    try:
        raise ValueError(len(local))
    except ValueError:
        get_logger("hub").exception("failed")
    assert "hunter2" not in out.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_whole_objects_are_named_only(form: str) -> None:
    out = started(msgspec.convert({"format": form}, Log))
    get_logger("hub").info("x", config=Config(data_dir="hunter2"), deep=[Config(data_dir="hunter2")])
    assert "hunter2" not in out.getvalue()
    assert out.getvalue().count("<Config>") == 2


def test_odd_values_do_not_break_a_line() -> None:
    out = started()
    get_logger("hub").info("odd \ud800", value="\udfff", deep={(1, 2): object()})
    get_logger("hub").info("fine", kind=Out)
    first, second = out.lines()
    assert first["event"] == "odd \\ud800"
    assert second["event"] == "fine"


def test_libraries_speak_through_the_same_pipe_from_warning_up() -> None:
    out = started(Log(level="debug"))
    library = logging.getLogger("some.library")
    library.info("frame %s", "hunter2")
    library.warning("slow %s", "peer")
    library.error("quoted %s", "x" * 10_000)
    lines = out.lines()
    assert [line["level"] for line in lines] == ["warning", "error"]
    assert lines[0]["event"] == "slow peer"
    assert lines[0]["component"] == "some.library"
    assert len(str(lines[1]["event"])) == 500


def test_a_library_line_that_does_not_format_is_written_as_it_is() -> None:
    out = started()
    record = logging.makeLogRecord(
        {"msg": "broken %d", "args": ("text",), "levelno": 40, "name": "some.library"}
    )
    logging.getLogger().handlers[-1].emit(record)
    assert out.lines()[0]["event"] == "broken %d"


def test_a_library_traceback_is_kept() -> None:
    out = started()
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("some.library").exception("failed")
    assert "ValueError: wrong" in str(out.lines()[0]["exception"])


def test_setting_up_again_replaces_the_first() -> None:
    first, second = started(), started()
    logging.getLogger("some.library").error("once")
    assert first.getvalue() == ""
    assert len(second.lines()) == 1


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    out = started()
    log = get_logger("hub")
    out.close()
    log.info("lost")
    with pytest.raises(ValueError, match="closed"):
        out.write("")
