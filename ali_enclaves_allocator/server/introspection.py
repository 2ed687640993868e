"""The interface `org.varlink.service`, which every Varlink service has (https://varlink.org/Service)."""

from collections.abc import Mapping

from pydantic import BaseModel

from ali_enclaves_allocator.server.contract import (
    SERVICE,
    Call,
    Interface,
    Method,
    Nothing,
    Parameters,
    VarlinkError,
)
from ali_enclaves_allocator.server.idl import render


class Info(BaseModel):
    """Who serves, and what."""

    vendor: str
    """Who makes the service."""
    product: str
    """What it is called."""
    version: str
    """Its version."""
    url: str
    """Where to read about it."""
    interfaces: list[str]
    """The names of its interfaces."""


class InterfaceName(Parameters):
    """Names an interface."""

    interface: str
    """Its dotted name."""


class Description(BaseModel):
    """Describes an interface."""

    description: str
    """Its text in the interface definition language."""


class InterfaceNotFound(BaseModel):
    """The service has no such interface."""

    interface: str


class MethodNotFound(BaseModel):
    """The interface has no such method."""

    method: str


class MethodNotImplemented(BaseModel):
    """The interface has the method, but the service cannot do what was asked, such as an upgrade."""

    method: str


class InvalidParameter(BaseModel):
    """A parameter is missing, unknown or not of its type."""

    parameter: str


class ExpectedMore(BaseModel):
    """The method has to be called with `more`."""


ERRORS = (InterfaceNotFound, MethodNotFound, MethodNotImplemented, InvalidParameter, ExpectedMore)


def service_interface(info: Info, interfaces: Mapping[str, Interface]) -> Interface:
    """Make the interface that tells `info`, and describes `interfaces` (also those added to it later)."""

    def get_info(_call: Call, _parameters: Nothing) -> Info:
        """Tell who serves, and which interfaces."""
        return info

    def get_interface_description(_call: Call, parameters: InterfaceName) -> Description:
        """Describe an interface in the interface definition language."""
        interface = interfaces.get(parameters.interface)
        if not interface:
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", parameters.model_dump())
        return Description(description=interface.description)

    methods = (
        Method("GetInfo", get_info, Nothing, Info),
        Method("GetInterfaceDescription", get_interface_description, InterfaceName, Description),
    )
    about = "What every Varlink service can tell of itself."
    return Interface(SERVICE, methods, lambda: render(SERVICE, methods, ERRORS, about))
