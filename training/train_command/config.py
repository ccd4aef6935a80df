"""A training command as a study file describes it, and what a cell gives to it. Needs no torch."""

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
    """A value as a command is given it: true, false, none, a list, or text just as it was written."""
    if isinstance(value, list | tuple):
        return tuple(map(override, value))
    known = {"true": True, "false": False, "null": None}
    if value is None or isinstance(value, bool):
        return value
    return known.get(str(value), str(value))


Override = Annotated[bool | str | tuple[Any, ...] | None, BeforeValidator(override)]


OF_CONFIG = re.compile(r"\{config\.?(.*)\}")
LOG = "{log}"
"""Stands for what the command prints, in the `file` of a curve."""


def _below_out(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise InputError(f"{path!r} is not below {{out}}; name a file that the command writes there")
    return str(PurePosixPath(path))


class TrainingCommand(TrainingProgram):
    """A command that trains, and what it leaves.

    Attributes:
        command: split into words as a shell would, then `argv.PLACEHOLDERS` are put in; no shell sees it.
        then: commands that are called after it, in the same folder; a retry begins with the one that failed.
        overrides: how a cell's overrides are written (`training.train_command.argv`).
        config: of the folder, a file into which the overrides are merged; the command gets it as `{config}`.
        resume: words that are added where the path below `{out}` in them is there; `own`: the program
            looks for what it goes on from in `{out}` itself.
        folder: where the command is at home; it runs in a copy of its `code`, the rest linked beside it.
        code: patterns of the files that decide the result; none: source files that git does not ignore.
        links: patterns of files and folders that are linked into each run though they hold weights or logs.
        scores: below `{out}`, a folder of enhanced test files, or a table `.csv` of measures.
        curve: what it writes below `{out}`, or prints; none: the command tells none.
        network: `file.py:Class`, for the audit.
        network_arguments: of the class by name; `{config.group}` is what `config` has there, `{config}` all.
            Without names, that group's settings are the arguments.
        sample_rate: Hz, of its enhanced files and of the audio that is kept.
        digest: of the content of `code`, when the study was planned.
        commit: of `folder`, when the study was planned.

    One with `imported` has no command.
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
        """Of the files that decide the result, its configuration file among them; none: all sources."""
        return (*self.code, *([self.config] if self.config else [])) if self.code else ()

    def base(self, folder: Path | None = None) -> dict[str, Any]:
        """The content of `config`, in a folder other than its own maybe; empty without one.

        Raises:
            InputError: it cannot be read.
        """
        return {} if self.config is None else config_files.read((folder or Path(self.folder)) / self.config)

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings of `config` by dotted name, as overrides are; empty if it cannot be read by now."""
        with suppress(InputError):
            return {key: override(value) for key, value in config_files.flat(self.base())}
        return {}

    def network_settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `network` by dotted name, as a command with overrides is configured.

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
        """Whether overrides can be given to the command.

        Raises:
            InputError: they cannot.
        """
        if self.imported is not None:
            return
        argv.check_overrides(self.commands, self.overrides, overrides)
        if self.config is not None:
            config_files.text(self.base(), overrides, self.ending)

    @property
    def ending(self) -> str:
        """Of the file with overrides."""
        return Path(self.config).suffix.lower() if self.config else ".yaml"

    @property
    def resumes_itself(self) -> bool:
        return self.resume == "own"

    @property
    def is_table(self) -> bool:
        """Whether the command measures its test files itself."""
        return self.scores.endswith(".csv")

    @property
    def has_curve(self) -> bool:
        return self.curve is not None

    def other_value(self, metric: str) -> str:
        return metric

    def rate_of(self, config: Any) -> int:
        return self.sample_rate

    def signed_fields(self) -> dict[str, Any]:
        """What of it decides the trained weights."""
        signed: dict[str, Any] = {"code": self.digest, "command": self.command, "overrides": self.overrides}
        more = {"then": self.then, "config": self.config, "gpus": self.gpus if self.gpus > 1 else None}
        return signed | {name: value for name, value in more.items() if value}


class CommandConfig(Frozen):
    """What a cell gives to a training command.

    Attributes:
        overrides: of the program's own settings, by its own names.
    """

    ABSENT: ClassVar[Any] = "not given"
    """Stands for an override that a command is not given: its own default."""
    results_version: ClassVar[int] = 1
    steps: ClassVar[None] = None
    """The command decides."""
    match: ClassVar[str] = "free"
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
        """The overrides, which all may change the trained network, and are part of its signature."""
        return self.model_dump(mode="json")["overrides"]

    def signed_fields(self) -> dict[str, Any]:
        return self.result_fields()

    def is_active(self, path: str) -> bool:
        """Nobody knows of an override whether it means anything, nor anything else of it."""
        return True

    def marks_of(self, path: str) -> FieldMarks:
        return FieldMarks()

    def in_steps(self, train_files: int) -> CommandConfig:
        return self

    def document(self) -> dict[str, Any]:
        """What `spec.json` says of it."""
        return {"overrides": self.result_fields()}
