"""Base classes of configurations. Needs no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from .fields import marks_of


class Frozen(BaseModel):
    """An immutable model that rejects unknown keys and is stored under its fields' former names (aliases)."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), serialize_by_alias=True)


class Section(Frozen):
    """A network, a recipe or an evaluation: its fields carry the marks of `models.fields`."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def is_active(self, name: str) -> bool:
        """Whether a field is read, given the values of the others."""
        conditions = marks_of(type(self), name).conditions
        return not conditions or any(c.holds(getattr(self, c.field)) for c in conditions)

    def result_fields(self) -> dict[str, Any]:
        """The fields that change the result, as JSON values; inactive fields have a fixed value."""
        known = {name: marks_of(type(self), name) for name in type(self).model_fields}
        return {
            name: value if self.is_active(name) else known[name].inactive
            for name, value in self.model_dump(mode="json", by_alias=False).items()
            if not known[name].bookkeeping
        }

    def signed_fields(self) -> dict[str, Any]:
        """The fields in a signature, under their stored names.

        These are `result_fields` without the fields marked `Added` that have their default.
        """
        fields = type(self).model_fields
        return {
            fields[name].serialization_alias or name: value
            for name, value in self.result_fields().items()
            if not (marks_of(type(self), name).added and value == marks_of(type(self), name).default)
        }
