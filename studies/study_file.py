"""Read a `Study` from a YAML file and the options of `ablate run`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ablate.ablations.claim_files import claims_from, claims_in, read_yaml
from ablate.ablations.claims import Endpoint, parse_claim
from ablate.ablations.factors import LEVEL, Factor, find, parse_value, with_claims, with_further
from ablate.ablations.grid import parse_factors, parse_settings
from ablate.models.errors import InputError, readable
from ablate.models.fields import split_settings
from ablate.models.plugins import load
from ablate.models.registry import suggestion
from ablate.training.config import check_path
from ablate.training.train_command.config import override
from ablate.training.train_command.config_files import flat

from .study import Study

START = """no grid given; three ways to start:
  ablate run --grid bidirectional,decoder4x,crossband             # demo corpus, no data needed
  ablate run --grid bidirectional,decoder4x,crossband --data DIR --recipe small --seeds 5   # your data
  ablate run study.yaml                                           # everything in a file: docs/studies.md"""
BESIDE_TRAIN = ("scores", "curve", "network", "links")
"""Fields of a `TrainingCommand` that are top-level keys of a study file."""
FORMER = {"launcher": "compute: {launcher: ...}"}
"""Former keys of a study file -> their new form."""


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """Overrides of the training command from `name=value` texts. Raises as `split_settings`."""
    return _overrides(dict(split_settings(items, "lr=1e-4, as the command calls it")))


def asked(file: Path | None, plugins: Iterable[Path] = (), **given: Any) -> Study:
    """The study of a file and options. Imports the plug-ins of both.

    Args:
        given: fields of a `Study` from the command line, which override the file; `grid`, `seeds`,
            `baseline`, `metric`, `claim`, `claims` and `set` are texts. None and empty mean not given.

    Raises:
        InputError: an option, the file or a plug-in is not valid, or there is no grid.
    """
    load(plugins)
    given = {key: value for key, value in given.items() if value not in (None, [], {})}
    fields: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            raise InputError(f"{file}: no such study file; to name factors, write --grid {file}")
        fields = read_file(file)
    if "grid" in given:
        fields["factors"] = parse_factors(given.pop("grid"))
    if not fields.get("factors"):
        raise InputError(START)
    if given.get("baseline") == "none":
        given.pop("baseline")
        fields["baseline"] = None
    parse = parse_overrides if "train" in fields else parse_settings
    settings = fields.get("set", {}) | parse(given.pop("set", []))
    endpoint = fields.get("endpoint") or {}
    if (metric := given.pop("metric", None)) and endpoint.get("metric") != metric:
        endpoint = {"metric": metric}
    claims, others = given.pop("claim", []), given.pop("claims", None)
    compute = (fields.get("compute") or {}) | given.pop("compute", {})
    fields |= given | {"set": settings, "endpoint": endpoint, "compute": compute}
    with readable():
        metric = Endpoint.model_validate(endpoint).metric
    fields["factors"] = with_claims(fields["factors"], [parse_claim(text, metric) for text in claims])
    if others is not None:
        found = claims_from(others, fields["factors"], metric)
        fields["factors"] = with_further(fields["factors"], found)
    fields["plugins"] = (*fields.get("plugins", ()), *map(str, plugins))
    load(map(Path, fields["plugins"]))
    with readable():
        return Study.model_validate(fields)


class _Loader(yaml.SafeLoader):
    """YAML with scalars as text, so that `off` is not false, and the range of seeds `1:5` is not 65."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_file(path: Path) -> dict[str, Any]:
    """The fields of a `Study` that a YAML study file sets.

    `factors` maps a factor's name to `{levels, claim, source, metric, conditions}`, all optional. `levels` is
    a list of known levels or `{level: {dotted path: value}}`; the others are as in a file of claims
    (`ablations.claim_files`). `grid` is the same text as on the command line. With `train`, the values of
    levels, `set` and `baseline` are overrides of the training command, and `scores` and `curve` describe the
    files that it writes.

    Raises:
        InputError: the file is not a YAML mapping, or a key or factor is unknown.
    """
    data = read_yaml(path, _Loader)
    if not isinstance(data, dict):
        raise InputError(f"{path}: a study file must be a mapping with keys such as base, factors, seeds")
    known = ["grid", "study", *(f for f in Study.model_fields if f not in ("file", "name")), *BESIDE_TRAIN]
    for key in data:
        if key in FORMER:
            raise InputError(f"{path}: the key {key} is now {FORMER[key]}")
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}{suggestion(str(key), known)}")
    data["file"], data["name"] = str(path.resolve()), data.pop("study", None)
    own = "train" in data
    if own:
        data["train"] = _train(path, data)
    if data.get("baseline") == "none" or (own and "baseline" not in data):
        data["baseline"] = None
    elif own and isinstance(data["baseline"], dict):
        data["baseline"] = _overrides(data["baseline"])
    if "grid" in data:
        if "factors" in data or own:
            other = "factors" if "factors" in data else "train"
            raise InputError(f"{path}: give grid or {other}, not both")
        data["factors"] = parse_factors(data.pop("grid"))
    elif "factors" in data:
        metric = (data.get("endpoint") or {}).get("metric", Endpoint().metric)
        data["factors"] = tuple(
            _factor(name, body or {}, metric, own) for name, body in data["factors"].items()
        )
    if own:
        data |= {key: _overrides(data.get(key) or {}) for key in ("set", "check")}
    elif "set" in data:
        data["set"] = {check_path(key): _value(value) for key, value in data["set"].items()}
    if data.get("data") is not None:
        data["data"] = _place(path, data["data"])
    if data.get("pairs") is not None and (path.parent / data["pairs"]).exists():
        data["pairs"] = str((path.parent / data["pairs"]).resolve())
    if data.get("test_data") is not None:
        named = data["test_data"] if isinstance(data["test_data"], list) else [data["test_data"]]
        data["test_data"] = tuple(_place(path, place) for place in named)
    return data


def _place(file: Path, corpus: str) -> str:
    """The location of a corpus named in a study file: a path relative to the file, or the demo corpus."""
    return corpus if corpus == "demo" else str((file.parent / corpus).resolve())


def _train(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `TrainingCommand`, from `train` and the keys beside it."""
    if not isinstance(data["train"], dict) or not {"command", "commands"} & set(data["train"]):
        raise InputError(f"{path}: train must be a mapping, e.g. train: {{command: python ...}}")
    train = dict(data["train"])
    for key in BESIDE_TRAIN:
        if key in data:
            train[key] = data.pop(key)
    for key in ("code", "links"):
        if isinstance(train.get(key), str):
            train[key] = (train[key],)
    train["folder"] = str((path.parent / train.get("folder", ".")).resolve())
    return train


def _overrides(values: dict[str, Any]) -> dict[str, Any]:
    """Overrides with dotted names: `{model: {layers: 2}}` becomes `{model.layers: 2}`."""
    return {key: override(value) for key, value in flat(values)}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(item) for item in value]
    return parse_value(value) if isinstance(value, str) else value


def _values(delta: dict[str, Any]) -> dict[str, Any]:
    return {path: _value(value) for path, value in delta.items()}


def _factor(name: str, body: dict[str, Any], metric: str, own: bool) -> Factor:
    claims = claims_in(name, {k: v for k, v in body.items() if k != "levels"}, "study file", metric)
    levels = body.get("levels")
    if own and isinstance(levels, list):
        levels = {level: {name: level} for level in levels}
    if own and not isinstance(levels, dict):
        raise InputError(f"factor {name!r} has no levels; give each level with its overrides of the command")
    if isinstance(levels, dict):
        read = _overrides if own else _values
        deltas = {str(level): read(delta or {}) for level, delta in levels.items()}
        if not LEVEL.fullmatch(name):
            raise InputError(f"factor name {name!r} is not valid; use only letters, digits, '.', '_' and '-'")
        if len(deltas) < 2:
            raise InputError(f"factor {name!r} needs at least two levels, got {len(deltas)}")
        factor = Factor(name=name, own=own, levels=deltas)
    else:
        factor = find(name, [str(level) for level in levels] if levels else None)
    for claim in claims:
        factor = factor.with_claim(claim)
    return factor
