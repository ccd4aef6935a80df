"""A training command as a study file describes it, and what a cell gives to it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ablate.models.config import Frozen
from ablate.models.errors import InputError

from ..config import Evaluation
from . import argv

Style = Literal["argparse", "hydra", "yaml", "env"]


def override(value: Any) -> Any:
    """A value as a command is given it: true, false, none, a list, or text just as it was written."""
    if isinstance(value, list | tuple):
        return tuple(map(override, value))
    known = {"true": True, "false": False, "null": None}
    if value is None or isinstance(value, bool):
        return value
    return known.get(str(value), str(value))


Override = Annotated[bool | str | tuple[Any, ...] | None, BeforeValidator(override)]


class TrainingCommand(Frozen):
    """A command that trains, and what it leaves.

    Attributes:
        command: split into words as a shell would, then `{seed} {out} {data} {overrides} {config} {threads}`
            are put in; no shell sees it.
        overrides: how a cell's overrides are written (`training.train_command.argv`).
        resume: words that are added where the file in them, a path below `{out}`, exists; `own`: the program
            looks for what it goes on from in `{out}` itself.
        folder: where the command is at home; it runs in a copy of its `code`, the rest linked beside it.
        code: patterns of the files that decide the result; none: source files that git does not ignore.
        links: patterns of files and folders that are linked into each run though they hold weights or logs.
        scores: below `{out}`, a folder of enhanced test files, or a table `.csv` of measures.
        curve: below `{out}`, a file of JSON lines with a `step`; none: the command tells none.
        network: `file.py:Class`, for the audit.
        sample_rate: Hz, of its enhanced files and of the audio that is kept.
        digest: of the content of `code`, when the study was planned.
        commit: of `folder`, when the study was planned.
        imported: where results that were trained elsewhere are from; there is no command then.
    """

    command: str = ""
    overrides: Style = "argparse"
    resume: str | None = None
    folder: str
    code: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    scores: str = "enhanced"
    curve: str | None = None
    network: str | None = None
    sample_rate: int = Field(16_000, ge=4_000, le=192_000)
    digest: str = ""
    commit: str | None = None
    imported: str | None = None

    @field_validator("scores", "curve")
    @classmethod
    def _below_out(cls, path: str | None) -> str | None:
        if path is None:
            return None
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise InputError(f"{path!r} is not below {{out}}: name what the command writes there")
        return str(PurePosixPath(path))

    @model_validator(mode="after")
    def _can_be_called(self) -> TrainingCommand:
        if self.imported is None:
            argv.check(self.command, self.overrides, None if self.resumes_itself else self.resume)
        return self

    @property
    def resumes_itself(self) -> bool:
        return self.resume == "own"

    @property
    def is_table(self) -> bool:
        """Whether the command measures its test files itself."""
        return self.scores.endswith(".csv")

    def signed_fields(self) -> dict[str, Any]:
        """What of it decides the trained weights."""
        return {"code": self.digest, "command": self.command, "overrides": self.overrides}


class CommandConfig(Frozen):
    """What a cell gives to a training command.

    Attributes:
        overrides: of the program's own settings, by its own names.
    """

    overrides: dict[str, Override] = Field(default_factory=dict)
    evaluation: Evaluation = Evaluation()

    def with_changes(self, changes: Mapping[str, Any]) -> CommandConfig:
        """This configuration with other overrides."""
        return CommandConfig(overrides={**self.overrides, **changes}, evaluation=self.evaluation)

    def flat(self) -> dict[str, Any]:
        """Every override and field of the evaluation by name."""
        dumped = self.model_dump(mode="json")
        return dumped["overrides"] | {f"evaluation.{k}": v for k, v in dumped["evaluation"].items()}

    def result_fields(self) -> dict[str, Any]:
        """The overrides, which all may change the trained network."""
        return self.model_dump(mode="json")["overrides"]

    def signed_fields(self) -> dict[str, Any]:
        """The same: all are part of the training signature."""
        return self.result_fields()
