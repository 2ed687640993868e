"""The two Varlink libraries for Python as independent clients."""

import asyncio
import os
from collections.abc import AsyncGenerator

import asyncvarlink
import asyncvarlink.serviceinterface
import pytest
import varlink  # type: ignore[import-untyped]

from tests.sim.varlink.example import NAME, Running


def test_the_varlink_library_as_client(service: Running) -> None:
    client = varlink.Client.new_with_address(f"unix:{service.path}")
    assert client.get_interfaces() == [NAME, "org.varlink.service"]
    assert client.info == {
        "vendor": "Example",
        "product": "Test",
        "version": "1",
        "url": "http://example.org",
        "interfaces": [NAME, "org.varlink.service"],
    }
    assert "Everything that a parameter can be" not in client.get_interface(NAME).get_description()
    with client.open(NAME) as example:
        assert example.Ping("hello", mood="good", numbers=[1, 2]) == {"text": "hello"}
        assert [r["number"] for r in example.Count(3, _more=True)] == [0, 1, 2]
        assert example.Ping("quiet", _oneway=True) is None
        with pytest.raises(varlink.VarlinkError) as failed:
            example.Fail()
        assert failed.value.error() == f"{NAME}.TooLate"
        assert failed.value.parameters() == {"by": 3}
        with pytest.raises(varlink.InvalidParameter) as invalid:
            example.Ping(text="x", numbers=[-1])
        assert invalid.value.parameters() == {"parameter": "numbers"}
        with pytest.raises(varlink.VarlinkError) as expected:
            example.Watch()
        assert expected.value.error() == "org.varlink.service.ExpectedMore"
    with pytest.raises(varlink.InterfaceNotFound):
        client.open("org.example.Other", connection=service.connect())


class ForeignTooLate(asyncvarlink.TypedVarlinkErrorReply, name=f"{NAME}.TooLate"):
    class Parameters:
        by: int


class Foreign(asyncvarlink.VarlinkInterface, name=NAME):
    """The same interface as the other library declares it; its bodies are never run."""

    errors = (ForeignTooLate, asyncvarlink.serviceinterface.InvalidParameter)

    @asyncvarlink.varlinkmethod(return_parameter="text")
    async def Ping(self, *, text: str, mood: str | None = None) -> str:
        return ""

    @asyncvarlink.varlinkmethod
    async def Fail(self) -> None: ...

    @asyncvarlink.varlinkmethod(return_parameter="number")
    async def Count(self, *, to: int) -> AsyncGenerator[int, None]:
        yield 0

    @asyncvarlink.varlinkmethod(return_parameter="fd")
    async def Give(self) -> asyncvarlink.FileDescriptor:
        return asyncvarlink.FileDescriptor(None)


def test_the_asyncvarlink_library_as_client(service: Running) -> None:
    service.go()

    async def talk() -> None:
        transport, protocol = await asyncvarlink.connect_unix_varlink(asyncvarlink.VarlinkClientProtocol, service.path)
        example = asyncvarlink.VarlinkInterfaceProxy(protocol, Foreign)
        about = asyncvarlink.VarlinkInterfaceProxy(protocol, asyncvarlink.serviceinterface.VarlinkServiceInterface)
        assert (await about.GetInfo())["interfaces"] == [NAME, "org.varlink.service"]
        with pytest.raises(asyncvarlink.serviceinterface.InterfaceNotFound):
            await about.GetInterfaceDescription(interface="org.example.Other")
        assert f"interface {NAME}" in (await about.GetInterfaceDescription(interface=NAME))["description"]
        assert await example.Ping(text="hello", mood="good") == {"text": "hello"}
        many = await asyncio.gather(*(example.Ping(text=str(number)) for number in range(50)))
        assert [answer["text"] for answer in many] == [str(number) for number in range(50)]
        await example.Ping.oneway(text="quiet")
        assert [answer["number"] async for answer in example.Count(to=3)] == [0, 1, 2]
        with pytest.raises(ForeignTooLate) as failed:
            await example.Fail()
        assert failed.value.parameters == {"by": 3}
        with pytest.raises(asyncvarlink.serviceinterface.InvalidParameter):
            await example.Ping(text="x", mood="ugly")
        with await example.Give() as answer:
            assert os.read(answer["fd"].fileno(), 10) == b"hello"
        transport.close()
        await transport.closed_future

    asyncio.run(talk())
