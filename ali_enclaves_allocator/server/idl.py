"""Describes an interface in Varlink's own language, from the very models that its calls are validated with.

Docstrings and field descriptions become comments. The grammar is https://varlink.org/Interface-Definition.
"""

import ast
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from ali_enclaves_allocator.server.contract import InternalError, Method

SCALARS: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "string", Any: "object", object: "object"}
INTERFACE = r"[A-Za-z](-*[A-Za-z0-9])*(\.[A-Za-z0-9](-*[A-Za-z0-9])*)+"
MEMBER = r"[A-Z][A-Za-z0-9]*"
FIELD = r"[A-Za-z](_?[A-Za-z0-9])*"


def render(name: str, methods: Sequence[Method[Any, Any]], errors: Sequence[type] = (), comment: str = "") -> str:
    """Describe the interface `name`.

    `errors` are models or dataclasses, named like the errors; InternalError is added to them.
    Raises TypeError for a type and ValueError for a name that Varlink has not.
    """
    text = _Text()
    members = [text.method(method) for method in methods]
    for error in (*errors, InternalError):
        members.append(text.member("error", error.__name__, error.__doc__, text.struct(error)))
    head = f"{_comment(comment)}interface {_checked(INTERFACE, name)}\n"
    return "\n".join([head, *text.named_types(), *members])


class _Text:
    """The members of one interface, and the named types that they turned out to need."""

    def __init__(self) -> None:
        self.types: list[type] = []
        self.members: set[str] = set()

    def method(self, method: Method[Any, Any]) -> str:
        """Render a method. Its parameters have no default but None: Varlink knows no other way to omit one."""
        for name, field in method.parameters.model_fields.items():
            nullable, optional = self.type(field.annotation).startswith("?"), not field.is_required()
            if nullable != optional or (optional and field.default is not None):
                raise TypeError(f"{method.name}: {name} may be None if and only if it may be omitted")
        doc = inspect.getdoc(method.handler) or ""
        doc += "\n[Requires 'more' flag]" * method.stream  # so does sd-varlink (sd_varlink_idl_format)
        return self.member(
            "method", method.name, doc, f"{self.struct(method.parameters)} -> {self.struct(method.reply)}"
        )

    def member(self, keyword: str, name: str, doc: str | None, body: str) -> str:
        """Render a member. Raises ValueError if another one has its name."""
        if name in self.members:
            raise ValueError(f"two members are named {name}")
        self.members.add(name)
        return f"{_comment(doc)}{keyword} {_checked(MEMBER, name)}{body}\n"

    def named_types(self) -> Iterator[str]:
        """Render the types that were used by name, and so on those which these use."""
        for cls in self.types:  # grows meanwhile
            body = self.enum(list(cls)) if issubclass(cls, StrEnum) else self.struct(cls)
            yield self.member("type", cls.__name__, cls.__doc__, body)

    def struct(self, cls: type) -> str:
        """Render the fields of a model or dataclass, one in a line, each below its comment."""
        lines = [f"{_comment(text)}{_checked(FIELD, name)}: {self.type(kind)}" for name, kind, text in _fields(cls)]
        return "(\n  " + ",\n".join(lines).replace("\n", "\n  ") + "\n)" if lines else "()"

    def enum(self, values: Sequence[str]) -> str:
        """Render an enumeration."""
        return f"({', '.join(_checked(FIELD, value) for value in values)})"

    def type(self, annotation: Any) -> str:
        """Render a Python type. Raises TypeError where Varlink has none like it."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        some = [argument for argument in arguments if argument is not types.NoneType]
        if origin is Annotated:
            return self.type(arguments[0])
        if origin in (Union, types.UnionType) and len(some) == 1:
            return f"?{self.type(some[0])}"
        if origin in (list, Sequence) or (origin is tuple and arguments[1:] == (...,)):
            return f"[]{self.type(arguments[0])}"
        if origin in (dict, Mapping) and arguments[0] is str:
            return f"[string]{self.type(arguments[1])}"
        return self.enum(arguments) if origin is Literal else self.named(annotation)

    def named(self, annotation: Any) -> str:
        """Render a type that has a name, and remember those that the interface has to define."""
        if annotation in SCALARS:
            return SCALARS[annotation]
        if not inspect.isclass(annotation) or not (
            is_dataclass(annotation) or issubclass(annotation, (BaseModel, StrEnum))
        ):
            raise TypeError(f"Varlink has no type like {annotation}")
        if annotation not in self.types:
            self.types.append(annotation)
        return annotation.__name__


def _fields(cls: Any) -> list[tuple[str, Any, str | None]]:
    """List the fields of a model or dataclass: name, type, comment."""
    docs = docstrings(cls)
    if issubclass(cls, BaseModel):
        return [(name, f.annotation, f.description or docs.get(name)) for name, f in cls.model_fields.items()]
    hints = get_type_hints(cls)
    return [(f.name, hints[f.name], docs.get(f.name)) for f in fields(cls)]


def docstrings(cls: type) -> dict[str, str]:
    """Find the docstrings that stand below the attributes of a class and of those it derives from."""
    found = {}
    for parent in reversed([parent for parent in cls.__mro__ if parent not in BaseModel.__mro__]):
        node = _classes(parent.__module__).get(parent.__qualname__)
        for attribute, doc in pairwise(node.body if node else ()):
            match attribute, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Parse a module for its classes; one without a source has none."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _comment(text: str | None) -> str:
    """Turn text into comment lines; empty if there is none."""
    return "".join(f"# {line}".rstrip() + "\n" for line in inspect.cleandoc(text or "").splitlines())


def _checked(pattern: str, name: str) -> str:
    """Return `name`. Raises ValueError if the grammar does not allow it."""
    if re.fullmatch(pattern, name, re.ASCII):
        return name
    raise ValueError(f"Varlink does not allow the name {name!r}")
