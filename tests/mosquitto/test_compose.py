"""docker-compose.yml holds what it promises. There is no Docker here: the text is read, and its scripts are parsed."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mosquitto.rig import ROOT

FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# those that stay
LASTING = [name for name, service in SERVICES.items() if service["restart"] == "unless-stopped"]


def images() -> dict[str, str]:
    """Where each image comes from, by the file that says so."""
    found = {}
    for name, service in SERVICES.items():
        if "build" in service:
            file = ROOT / service["build"] / "Dockerfile"
            for n, base in enumerate(re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE)):
                found[f"{name}-{n}"] = base
        elif not service["image"].endswith(":local"):
            found[name] = service["image"]
    return found


def scripts() -> dict[str, str]:
    """What a shell is given, as Compose hands it over."""
    found = {}
    for name, service in SERVICES.items():
        test = service.get("healthcheck", {}).get("test")
        if isinstance(test, str):
            found[f"{name} healthcheck"] = test.replace("$$", "$")
        if service.get("entrypoint", [""])[0] == "/bin/sh":
            found[name] = service["command"][0].replace("$$", "$")
    return found


def test_the_services() -> None:
    assert set(LASTING) == {"gateway", "mosquitto", "redis"}
    assert set(SERVICES) - set(LASTING) == {"mqtt"}
    # the gateway cannot use Redis yet, and nobody starts a tool by accident
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "gateway",
        "mosquitto",
    }


@pytest.mark.parametrize("name", LASTING)
def test_health(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"]
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "privileged" not in service
    assert not [port for port in service.get("ports", ()) if re.match(r"\d+:(1884|8081|6379)", port)]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_kept_is_in_named_volumes(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        assert volume.partition(":")[0] in COMPOSE["volumes"]


def test_only_those_who_need_a_secret_mount_it() -> None:
    of = {name: {v.partition(":")[0]: v for v in service["volumes"]} for name, service in SERVICES.items()}
    assert {name for name in of if "broker" in of[name]} == {"mosquitto", "mqtt"}
    assert of["mqtt"]["broker"].endswith(":ro")
    assert of["gateway"]["broker-gateway"].endswith(":ro")
    assert {name for name in of if "gateway" in of[name]} == {"gateway"}


@pytest.mark.parametrize(("source", "image"), images().items())
def test_images_are_pinned_to_a_minor_version(source: str, image: str) -> None:
    assert re.fullmatch(r"[a-z-]+:\d+\.\d+(\.\d+)?(-[a-z]+)*", image), source


def test_no_secret_is_in_the_file() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            # the name of a file
            assert value.startswith("/") or not re.search("PASSWORD|SECRET|TOKEN|KEY", name), name
    text = FILE.read_text(encoding="utf-8")
    given = re.findall(r"://[^/\s:@]+:([^@\s]+)@|\brequirepass (\S+)|password=(\S+)", text)
    assert len(given) == 3
    # the content of a file, or a variable that holds it
    assert all("".join(value).startswith("$$") for value in given)
    assert not re.findall(r"\b(?=\w*\d)(?=\w*[a-z])\w{20,}\b", text)


@pytest.mark.parametrize(("name", "script"), scripts().items())
def test_scripts_parse(name: str, script: str) -> None:
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), name


def test_the_health_check_of_mosquitto(broker: Any) -> None:
    """The command as it stands, at the port of the test's broker."""
    check = scripts()["mosquitto healthcheck"]
    ports = {"1884": str(broker.local_port)}
    for expected, port in ((0, ports["1884"]), (1, "1")):
        command = check.replace("-p 1884", f"-p {port}")
        assert command != check
        done = subprocess.run(["sh", "-c", command], check=False, timeout=60)
        assert done.returncode == expected


def test_the_image_of_the_broker_has_what_it_starts() -> None:
    folder = ROOT / SERVICES["mosquitto"]["build"]
    (copied,) = re.findall(r"^COPY (.+) \S+$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    assert all((folder / name).is_file() for name in copied.split())
    assert Path(folder / "start").stat().st_mode & 0o111
