"""Calls and errors: every call is answered, in order, and one that fails harms no other."""

import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.sim.varlink.example import NAME, PATIENCE, Running, assert_serves, frame, ping, replies, reply


def test_a_call_is_answered(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Ping", {"text": "é \0 \U0001f600", "mood": "bad", "nested": {"number": 1}, "numbers": [0]}))
    assert reply(client) == {"parameters": {"text": "é \0 \U0001f600"}}


def test_parameters_may_be_absent_or_null(service: Running) -> None:
    client = service.connect()
    client.sendall(b'{"method":"org.example.Test.Fail"}\0{"method":"org.example.Test.Fail","parameters":null}\0')
    assert [r["error"] for r in replies(client, 2)] == [f"{NAME}.TooLate"] * 2


def test_pipelined_calls_are_answered_in_order_and_one_at_a_time(service: Running) -> None:
    client = service.connect()
    client.sendall(ping("first") + frame("Wait") + frame("Wait") + ping("last"))
    assert reply(client)["parameters"] == {"text": "first"}  # not held back by the call that takes long
    assert [service.event(), service.event()] == ["ping first", "waiting"]
    assert service.example.most_at_work == 1
    service.go()
    assert [r["parameters"]["text"] for r in replies(client, 3)] == ["went", "went", "last"]
    assert service.example.most_at_work == 1


def test_a_call_that_takes_long_holds_up_nobody_else(service: Running) -> None:
    service.connect().sendall(frame("Wait"))
    assert service.event() == "waiting"
    assert_serves(service)


def test_ten_thousand_pipelined_calls_come_back_in_order(service: Running) -> None:
    client = service.connect()
    calls = b"".join(ping(str(number)) for number in range(10_000))
    sender = threading.Thread(target=client.sendall, args=[calls])
    sender.start()
    answers = replies(client, 10_000)
    sender.join(PATIENCE)
    assert [int(answer["parameters"]["text"]) for answer in answers] == list(range(10_000))


def test_two_hundred_clients_at_once_are_all_answered(service: Running) -> None:
    clients = [service.connect() for _ in range(200)]
    for number, client in enumerate(clients):
        client.sendall(ping(str(number)))
    assert [reply(client)["parameters"]["text"] for client in clients] == [str(number) for number in range(200)]


def test_oneway_calls_are_run_and_never_answered(service: Running) -> None:
    service.go()
    client = service.connect()
    for method in ("Fail", "Crash", "Give", "Watch", "Missing"):
        client.sendall(frame(method, oneway=True))
    client.sendall(frame("Ping", {"text": "quiet"}, oneway=True) + ping("loud"))
    assert reply(client) == {"parameters": {"text": "loud"}}
    assert [service.event() for _ in range(3)] == ["giving", "ping quiet", "ping loud"]


def test_the_caller_is_known_by_its_process(service: Running) -> None:
    program = (
        "import os, sys; from enclave_cli.client import Client\n"
        f"print(os.getpid(), Client(sys.argv[1]).call('{NAME}.WhoAmI'))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, service.path], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    pid, _, answer = printed.strip().partition(" ")
    assert answer == str({"pid": int(pid), "uid": os.getuid(), "gid": os.getgid(), "more": False})


def test_more_reaches_the_handler_and_one_reply_is_enough(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("WhoAmI", more=True))
    answer = reply(client)
    assert answer["parameters"]["more"] is True
    assert "continues" not in answer


@pytest.mark.parametrize(
    ("call", "error", "parameters"),
    [
        (frame("Fail"), f"{NAME}.TooLate", {"by": 3}),
        (frame("Missing"), "org.varlink.service.MethodNotFound", {"method": f"{NAME}.Missing"}),
        (
            b'{"method":"org.example.Other.X"}\0',
            "org.varlink.service.InterfaceNotFound",
            {"interface": "org.example.Other"},
        ),
        (b'{"method":"X"}\0', "org.varlink.service.InterfaceNotFound", {"interface": ""}),
        (frame("Watch"), "org.varlink.service.ExpectedMore", {}),
        (
            frame("Ping", {"text": "x"}, upgrade=True),
            "org.varlink.service.MethodNotImplemented",
            {"method": f"{NAME}.Ping"},
        ),
        (
            b'{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a.b"}}\0',
            "org.varlink.service.InterfaceNotFound",
            {"interface": "a.b"},
        ),
        (frame("Crash"), f"{NAME}.InternalError", {}),
        (frame("Lose"), f"{NAME}.InternalError", {}),
        (frame("Mangle"), f"{NAME}.InternalError", {}),
    ],
)
def test_errors_are_answered_and_the_connection_goes_on(
    service: Running, call: bytes, error: str, parameters: dict[str, Any]
) -> None:
    client = service.connect()
    client.sendall(call)
    assert reply(client) == {"error": error, "parameters": parameters}
    client.sendall(ping("after"))
    assert reply(client) == {"parameters": {"text": "after"}}


@pytest.mark.parametrize(
    ("parameters", "bad"),
    [
        ({}, "text"),
        ({"text": 1}, "text"),
        ({"text": None}, "text"),
        ({"text": "x", "number": "1"}, "number"),
        ({"text": "x", "number": True}, "number"),
        ({"text": "x", "number": 1.5}, "number"),
        ({"text": "x", "mood": "ugly"}, "mood"),
        ({"text": "x", "nested": {"number": 1, "more": 1}}, "nested"),
        ({"text": "x", "numbers": [1, -1]}, "numbers"),
        ({"text": "x", "txet": "x"}, "txet"),
    ],
)
def test_a_bad_parameter_is_named(service: Running, parameters: dict[str, Any], bad: str) -> None:
    client = service.connect()
    client.sendall(frame("Ping", parameters))
    assert reply(client) == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": bad}}


def test_a_failure_of_ours_is_logged_and_not_told(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    client = service.connect()
    client.sendall(frame("Crash"))
    assert "secret" not in json.dumps(reply(client))
    assert "a secret of ours" in caplog.text and "Traceback" in caplog.text
    assert caplog.messages == [f"{NAME}.Crash failed"]


def test_an_error_that_cannot_be_encoded_is_a_failure_of_ours(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client = service.connect()
    client.sendall(frame("Blunder") + ping("on"))
    assert [reply.get("error") for reply in replies(client, 2)] == [f"{NAME}.InternalError", None]
    assert caplog.messages == [f"{NAME}.Blunder failed"]
