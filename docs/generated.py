"""Writes what is documented by the code itself: the schema of `status --json`, and the interface of the socket.

Run it after a change of the models: `make docs`.
"""

import json
from pathlib import Path

from pydantic.json_schema import GenerateJsonSchema

from ali_enclaves_allocator.server.interface import NAME, PoolView
from ali_enclaves_allocator.server.service import Allocator, Service

HERE = Path(__file__).parent
PAGE = f"{NAME}.7"
HEADING = ".Sh DEFINITION\n"


class _Nobody(Allocator):
    """An allocator for a service that is only described."""


class _Untitled(GenerateJsonSchema):
    """Without titles, which repeat the names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def schema() -> str:
    """Return the JSON Schema of what `status --json` prints."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = PoolView.model_json_schema(mode="serialization", schema_generator=_Untitled)
    return json.dumps(dialect | schema, indent=2) + "\n"


def interface() -> str:
    """Return the description of the interface that the service gives of itself."""
    return Service(_Nobody()).interface().description


def page() -> str:
    """Return the manual page of the interface, its last section made anew."""
    written, heading, _ = (HERE / PAGE).read_text().partition(HEADING)
    text = interface().replace("\\", "\\e").replace("'", "\\(aq").replace("-", "\\-")
    return f"{written}{heading}.Bd -literal\n{text}.Ed\n"


FILES = {"status.schema.json": schema, f"{NAME}.varlink": interface, PAGE: page}

if __name__ == "__main__":
    for name, text in FILES.items():
        (HERE / name).write_text(text())
