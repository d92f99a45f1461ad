"""Parameters: params.yaml holds the values, dvc.yaml says which of them a stage may read, sections say their types.

`python -m stages.tools.check` checks the whole of params.yaml against every stage and prints all faults at once.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.core.cli import UserError, one_line

T = TypeVar("T", bound=BaseModel)
UNTRACKED = "llm"  # never changes an answer, so no stage declares it and changing it re-runs nothing


class Section(BaseModel):
    """A section of params.yaml, or what a stage reads of it. Unknown keys and other types than the declared are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    FLAT: ClassVar[bool] = False  # params.yaml joins the keys of its sections to theirs by `_` (`inducer_temp`)


class _RoundPairs(Section):
    """What a round changes of section extract_pairs."""

    model_config = ConfigDict(extra="allow")
    more_trees: str
    """As in the section; dvc.yaml reads it here."""
    groups: str
    """As in the section; dvc.yaml reads it here."""
    trees: None = None
    """None: a round has trees of its own."""


class _RoundDpo(Section):
    """What a round changes of section dpo."""

    model_config = ConfigDict(extra="allow")
    start: str = Field(pattern=r"^[\w.-]+$")
    """As in the section; dvc.yaml reads it here."""
    train_file: None = None
    """None: a round has pairs of its own."""
    val_file: None = None
    """None, too."""


class Round(Section):
    """A line of section `rounds`: role-play with a trained model's replies, pairs of it, DPO on them (docs/rounds.md)."""

    policy: str = Field(pattern=r"^[\w.-]+$")
    """The model that replies, a folder under models/: of the round before."""
    roleplay: dict[str, Any]
    """What the round changes of section roleplay."""
    extract_pairs: _RoundPairs
    """The same of section extract_pairs."""
    dpo: _RoundDpo
    """The same of section dpo."""


def in_round(params: dict[str, Any], name: str) -> dict[str, Any]:
    """Values of params.yaml as they are in round `name`. Raises UserError where there is no such round."""
    from omegaconf import OmegaConf

    line = (params.get("rounds") or {}).get(name)
    if line is None:
        raise UserError(f"params.yaml: rounds has no line {name!r}")
    changes = {section: values for section, values in line.items() if section != "policy"}
    found = OmegaConf.to_container(OmegaConf.merge(params, changes), resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def load_yaml(path: str) -> Any:
    """What a YAML file holds, as plain lists and mappings. Raises UserError if it cannot be read."""
    # OmegaConf reads YAML 1.2 floats; PyYAML takes the `5e-06` that `dvc exp run -S` writes for a string.
    from omegaconf import OmegaConf
    from yaml import MarkedYAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the root of the repository") from None
    except MarkedYAMLError as e:
        line = f" line {e.problem_mark.line + 1}:" if e.problem_mark else ""
        raise UserError(f"{path}:{line} cannot be read: {one_line(e.problem)}") from None
    except Exception as e:
        raise UserError(f"{path}: cannot be read: {one_line(e)}") from None


def declared(pipeline: dict[str, Any]) -> dict[str, list[str]]:
    """Declared parameter keys of each stage in a loaded dvc.yaml, foreach stages under their plain name."""
    stages = pipeline.get("stages", {})
    return {name: [str(k) for k in s.get("do", s).get("params", [])] for name, s in stages.items()}


def flat(tree: Any, prefix: str = "", names: str = "(?s).*") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of the leaves of nested mappings; lists and empty mappings are leaves.

    So is a mapping with a key that is no match of the pattern `names`.
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value and all(re.fullmatch(names, str(k)) for k in value):
            yield from flat(value, f"{prefix}{key}.", names)
        else:
            yield f"{prefix}{key}", value


def near(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` with the nearest of the known names, empty where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def faults_of(error: ValidationError, schema: type[BaseModel]) -> Iterator[str]:
    """A text for each fault: dotted key as in params.yaml, what is wrong, the value; of an unknown key the nearest name."""
    for e in error.errors(include_url=False):
        name, known = _place(schema, e["loc"])
        if e["type"] == "extra_forbidden":
            yield f"{name}: unknown{near(name, known)}"
        elif e["type"] == "missing":
            yield f"{name}: missing"
        else:
            text = e["msg"].removeprefix("Value error, ")
            yield f"{name}: {text[0].lower()}{text[1:]}" + ("" if e["type"] == "value_error" else f", found {e['input']!r}")


def _place(schema: Any, loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """(dotted key of a fault as params.yaml spells it, the keys that may stand there)."""
    name, join, known = "", "", list[str]()
    for place in loc:
        fields = getattr(schema, "model_fields", {})
        if not fields and str(place) in ("str", "int", "float", "bool"):
            continue  # the member of a union that pydantic tried
        flat_section = getattr(schema, "FLAT", False)
        inside = {key: getattr(f.annotation, "model_fields", {}) if flat_section else {} for key, f in fields.items()}
        known = [f"{name}{join}{k}" for key, keys in inside.items() for k in [f"{key}_{x}" for x in keys] or [key]]
        name = f"{name}{join}{place}"
        join = "_" if flat_section else "."
        inner = fields[str(place)].annotation if str(place) in fields else None
        schema = get_args(schema)[1] if get_origin(schema) is dict else inner
    return name, known


def checked(schema: type[T], values: Any) -> tuple[T | None, list[str]]:
    """(the section or sections, []), or (None, all faults)."""
    try:
        return schema.model_validate(values), []
    except ValidationError as e:
        return None, list(dict.fromkeys(faults_of(e, schema)))


def restricted(stage: str, schema: type[BaseModel], params: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """The sections that `schema` names, each with the declared keys alone. Raises UserError for one that is not declared."""
    found: dict[str, Any] = {}
    for name in schema.model_fields:
        whole = name in keys or name == UNTRACKED
        wanted = {k.split(".", 1)[1] for k in keys if k.startswith(name + ".")}
        if not whole and not wanted:
            raise UserError(f"dvc.yaml: stage {stage} does not declare params {name}, which its code reads")
        if name in params:
            values = params[name]
            found[name] = values if whole or not isinstance(values, dict) else {k: values[k] for k in wanted & set(values)}
    return found


def _values(round_name: str | None) -> dict[str, Any]:
    values: dict[str, Any] = load_yaml("params.yaml")
    return in_round(values, round_name) if round_name else values


def load(stage: str, schema: type[T], round_name: str | None = None) -> T:
    """Parameters of `stage`: a model whose fields are sections of params.yaml, restricted to the declared keys.

    Args:
        round_name: of the round whose changes hold; None: the first.
    Raises:
        UserError: every unknown, missing, mistyped or out-of-range value, in one line.
    """
    keys = declared(load_yaml("dvc.yaml")).get(stage)
    if keys is None:
        raise UserError(f"dvc.yaml: has no stage {stage}")
    result, faults = checked(schema, restricted(stage, schema, _values(round_name), keys))
    if result is None:
        raise UserError("params.yaml: " + "; ".join(faults))
    return result


def declared_values(stage: str, round_name: str | None = None) -> dict[str, Any]:
    """Values of the keys that dvc.yaml declares for `stage`, by dotted key: what its result files name as their protocol.

    `round_name`: see `load`.
    """
    params = _values(round_name)
    found = {}
    for key in declared(load_yaml("dvc.yaml"))[stage]:
        value = params
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found
