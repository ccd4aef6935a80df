"""A training command as a study file describes it, and its overrides in a cell. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ablate.models.config import Frozen
from ablate.models.errors import InputError
from ablate.models.fields import FieldMarks

from ..config import Evaluation, TrainingProgram
from ..curves import CurveFormat
from . import argv, config_files


def override(value: Any) -> Any:
    """A value as a command gets it: true, false, none, a list, or the text as written."""
    if isinstance(value, list | tuple):
        return tuple(map(override, value))
    known = {"true": True, "false": False, "null": None}
    if value is None or isinstance(value, bool):
        return value
    return known.get(str(value), str(value))


Override = Annotated[bool | str | tuple[Any, ...] | None, BeforeValidator(override)]


OF_CONFIG = re.compile(r"\{config\.?(.*)\}")
LOG = "{log}"
"""In the `file` of a curve: the output that the command prints."""


def _below_out(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise InputError(f"{path!r} is not below {{out}}; name a file that the command writes there")
    return str(PurePosixPath(path))


class TrainingCommand(TrainingProgram):
    """A command that trains, and its outputs.

    Attributes:
        command: split into words as by a shell, then filled with `argv.PLACEHOLDERS`; no shell runs it.
        then: commands called after it, in the same folder; a retry begins with the failed one.
        overrides: the style of a cell's overrides (`training.train_command.argv`).
        config: a file of the folder into which the overrides are merged; the command gets it as `{config}`.
        resume: words added if the path below `{out}` in them exists; `own`: the program itself looks in
            `{out}` for its checkpoint.
        folder: the command's home; it runs in a copy of its `code`, with links to the rest.
        code: patterns of the files that decide the result; none: source files that git does not ignore.
        links: patterns of files and folders to link into each run although they contain weights or logs.
        scores: below `{out}`, a folder of enhanced test files, or a table `.csv` of metrics.
        curve: the curve that it writes below `{out}` or prints; None: it reports none.
        network: `file.py:Class`, for the audit.
        network_arguments: of the class by name; `{config.group}` is that group of `config`, `{config}` all of
            it. A text instead of names: that group's settings are the arguments.
        sample_rate: Hz, of its enhanced files and of the kept audio.
        digest: of the content of `code`, when the study was planned.
        commit: of `folder`, when the study was planned.

    With `imported` there is no command.
    """

    command: str = ""
    then: tuple[str, ...] = ()
    overrides: Annotated[str, AfterValidator(argv.check_style)] = "argparse"
    config: Annotated[str, AfterValidator(config_files.check_ending)] | None = None
    resume: str | None = None
    folder: str
    code: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    scores: Annotated[str, AfterValidator(_below_out)] = "enhanced"
    curve: CurveFormat | None = None
    network: str | None = None
    network_arguments: dict[str, Any] | str = Field(default_factory=dict)
    sample_rate: int = Field(default=16_000, ge=4_000, le=192_000)
    digest: str = ""
    commit: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        fields = {"overrides": "config"} | fields if fields.get("config") else dict(fields)
        if (commands := fields.pop("commands", None)) is not None:
            if "command" in fields or not isinstance(commands, list) or not commands:
                raise InputError("train needs command, or commands (a list)")
            fields |= {"command": commands[0], "then": tuple(commands[1:])}
        if isinstance(network := fields.get("network"), dict):
            if not {"class"} <= set(network) <= {"class", "arguments"}:
                raise InputError("network: give file.py:Class, or {class: file.py:Class, arguments: {...}}")
            fields |= {"network": network["class"], "network_arguments": network.get("arguments", {})}
        return fields

    @field_validator("curve", mode="before")
    @classmethod
    def _file_alone(cls, curve: Any) -> Any:
        if isinstance(curve, str):
            return {"file": curve}
        return {"file": LOG, **curve} if isinstance(curve, dict) and "pattern" in curve else curve

    @field_validator("curve")
    @classmethod
    def _curve_below_out(cls, curve: CurveFormat | None) -> CurveFormat | None:
        return curve and curve.model_copy(update={"file": _below_out(curve.file)})

    @model_validator(mode="after")
    def _can_be_called(self) -> TrainingCommand:
        if self.imported is not None:
            return self
        argv.check(self.commands, self.overrides, None if self.resumes_itself else self.resume)
        if (self.config is not None) != (self.overrides == "config"):
            raise InputError(
                f"overrides: {self.overrides} does not match config: {self.config}; use both or none"
            )
        return self

    @property
    def commands(self) -> tuple[str, ...]:
        return (self.command, *self.then)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the files that decide the result, with its configuration file; none: all sources."""
        return (*self.code, *([self.config] if self.config else [])) if self.code else ()

    def base(self, folder: Path | None = None) -> dict[str, Any]:
        """The content of `config`, in its own or another folder; empty without one. InputError if it cannot
        be read."""
        return {} if self.config is None else config_files.read((folder or Path(self.folder)) / self.config)

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings of `config` by dotted name, like overrides; empty if it can no longer be read."""
        with suppress(InputError):
            return {key: override(value) for key, value in config_files.flat(self.base())}
        return {}

    def network_settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `network` by dotted name, under overrides.

        Raises:
            InputError: `config` has no such setting, or cannot be read.
        """
        tree = config_files.merged(self.base(), overrides, self.ending)

        def value(given: Any) -> Any:
            named = OF_CONFIG.fullmatch(given) if isinstance(given, str) else None
            return config_files.at(tree, named[1]) if named else given

        arguments = value(self.network_arguments)
        if not isinstance(arguments, dict):
            raise InputError(f"network arguments {self.network_arguments!r} are no group of settings")
        return dict(config_files.flat({name: value(given) for name, given in arguments.items()}))

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Raise InputError if the command cannot take overrides."""
        if self.imported is not None:
            return
        argv.check_overrides(self.commands, self.overrides, overrides)
        if self.config is not None:
            config_files.text(self.base(), overrides, self.ending)

    @property
    def ending(self) -> str:
        """Suffix of the file with overrides."""
        return Path(self.config).suffix.lower() if self.config else ".yaml"

    @property
    def resumes_itself(self) -> bool:
        return self.resume == "own"

    @property
    def is_table(self) -> bool:
        """Whether the command scores its test files itself."""
        return self.scores.endswith(".csv")

    @property
    def has_curve(self) -> bool:
        return self.curve is not None

    def other_value(self, metric: str) -> str:
        return metric

    def rate_of(self, config: Any) -> int:
        return self.sample_rate

    def signed_fields(self) -> dict[str, Any]:
        """The parts that decide the trained weights."""
        signed: dict[str, Any] = {"code": self.digest, "command": self.command, "overrides": self.overrides}
        more = {"then": self.then, "config": self.config, "gpus": self.gpus if self.gpus > 1 else None}
        return signed | {name: value for name, value in more.items() if value}


class CommandConfig(Frozen):
    """A cell's configuration for a training command.

    Attributes:
        overrides: of the program's settings, by the program's names.
    """

    ABSENT: ClassVar[Any] = "not given"
    """Value of an override that the command does not get, so that its own default applies."""
    results_version: ClassVar[int] = 1
    steps: ClassVar[None] = None
    """The command decides."""
    match: ClassVar[str] = "free"
    overrides: dict[str, Override] = Field(default_factory=dict)
    evaluation: Evaluation = Evaluation()

    def with_changes(self, changes: Mapping[str, Any]) -> CommandConfig:
        return CommandConfig(overrides={**self.overrides, **changes}, evaluation=self.evaluation)

    def flat(self) -> dict[str, Any]:
        """Every override and field of the evaluation by name."""
        dumped = self.model_dump(mode="json")
        return dumped["overrides"] | {f"evaluation.{k}": v for k, v in dumped["evaluation"].items()}

    def result_fields(self) -> dict[str, Any]:
        """The overrides: any of them may change the trained network, so all are signed."""
        return self.model_dump(mode="json")["overrides"]

    def signed_fields(self) -> dict[str, Any]:
        return self.result_fields()

    def is_active(self, path: str) -> bool:
        """Always true: it is unknown whether an override has an effect."""
        return True

    def marks_of(self, path: str) -> FieldMarks:
        return FieldMarks()

    def in_steps(self, train_files: int) -> CommandConfig:
        return self

    def document(self) -> dict[str, Any]:
        """Its part of `spec.json`."""
        return {"overrides": self.result_fields()}
