"""Describes an interface in Varlink's own language, from the very models that its calls are validated with.

Docstrings and field descriptions become comments, so the text that clients read is the code's. The grammar is
https://varlink.org/Interface-Definition.
"""

import ast
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from ali_enclaves_allocator.server.contract import INTERNAL_ERROR, Interface, Method

SCALARS: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "string", Any: "object", object: "object"}
"""The types that Varlink has a word for."""

INTERFACE = r"[A-Za-z](-*[A-Za-z0-9])*(\.[A-Za-z0-9](-*[A-Za-z0-9])*)+"
MEMBER = r"[A-Z][A-Za-z0-9]*"
FIELD = r"[A-Za-z](_?[A-Za-z0-9])*"


def render(name: str, methods: Sequence[Method[Any, Any]], errors: Sequence[type] = (), comment: str = "") -> Interface:
    """Make the interface `name` with its description.

    `errors` are models or dataclasses, named like the errors; the one for failures of the service itself is added.
    Raises TypeError for a type and ValueError for a name that Varlink has not.
    """
    text = _Text()
    members = [text.method(method) for method in methods]
    members += [text.member("error", error.__name__, error.__doc__, text.struct(error)) for error in errors]
    members += [text.member("error", INTERNAL_ERROR, "The service failed; its log has the reason.", "()")]
    head = f"{_comment(comment)}interface {_checked(INTERFACE, name)}\n"
    return Interface(name, methods, "\n".join([head, *text.named_types(), *members]))


class _Field(NamedTuple):
    """A field of a model or a dataclass."""

    name: str
    annotation: Any
    comment: str | None
    required: bool


class _Text:
    """The members of one interface, and the named types that they turned out to need."""

    def __init__(self) -> None:
        self.types: dict[str, type] = {}

    def method(self, method: Method[Any, Any]) -> str:
        """Render a method. Its parameters have no default but null: Varlink knows no other way to omit one."""
        for field in _fields(method.parameters):
            if field.required == self.type(field.annotation).startswith("?"):
                raise TypeError(f"{method.name}: {field.name}: may be omitted if and only if it may be None")
        doc = inspect.getdoc(method.handler) or ""
        doc += "\n[Requires 'more' flag]" * method.stream  # the words of sd-varlink's sd_varlink_idl_format
        signature = f"{self.struct(method.parameters)} -> {self.struct(method.reply)}"
        return self.member("method", method.name, doc, signature, space="")

    def member(self, keyword: str, name: str, doc: str | None, body: str, space: str = " ") -> str:
        """Render a member: its comment, keyword, name and body."""
        return f"{_comment(doc)}{keyword} {_checked(MEMBER, name)}{space}{body}\n"

    def named_types(self) -> Iterator[str]:
        """Render the types that were used by name, and those which these use."""
        done = 0
        while done < len(self.types):
            name, cls = list(self.types.items())[done]
            body = self.enum(list(cls)) if issubclass(cls, StrEnum) else self.struct(cls)
            yield self.member("type", name, cls.__doc__, body)
            done += 1

    def struct(self, cls: type) -> str:
        """Render the fields of a model or dataclass, one in a line, each below its comment."""
        lines = [
            f"{_comment(field.comment)}{_checked(FIELD, field.name)}: {self.type(field.annotation)}"
            for field in _fields(cls)
        ]
        return "(\n" + textwrap.indent(",\n".join(lines), "  ") + "\n)" if lines else "()"

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
        if not isinstance(annotation, type) or not (
            issubclass(annotation, (BaseModel, StrEnum)) or is_dataclass(annotation)
        ):
            raise TypeError(f"Varlink has no type like {annotation}")
        if self.types.setdefault(annotation.__name__, annotation) is not annotation:
            raise TypeError(f"two types are named {annotation.__name__}")
        return annotation.__name__


def _fields(cls: Any) -> list[_Field]:
    """List the fields of a model or dataclass as they appear in its JSON."""
    if issubclass(cls, BaseModel):
        return [
            _Field(name, field.annotation, field.description or _docstrings(cls).get(name), field.is_required())
            for name, field in cls.model_fields.items()
        ]
    hints = get_type_hints(cls)
    return [_Field(f.name, hints[f.name], _docstrings(cls).get(f.name), required=True) for f in fields(cls)]


def _docstrings(cls: type) -> dict[str, str]:
    """Find the docstrings that stand below the attributes of a class and of those it derives from."""
    found = {}
    for parent in reversed(cls.__mro__[:-1]):
        node = _classes(parent.__module__).get(parent.__qualname__.rpartition(".")[2])
        for attribute, doc in pairwise(node.body if node else ()):
            match attribute, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Parse the source of a module; it has no docstrings if it has no source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _comment(text: str | None) -> str:
    """Turn text into comment lines; empty if there is none."""
    return "".join(f"# {line}".rstrip() + "\n" for line in inspect.cleandoc(text or "").splitlines())


def _checked(pattern: str, name: str) -> str:
    """Return `name`. Raises ValueError if the grammar does not allow it."""
    if not re.fullmatch(pattern, name, re.ASCII):
        raise ValueError(f"Varlink does not allow the name {name!r}")
    return name
