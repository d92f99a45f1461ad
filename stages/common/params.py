"""Parameters: params.yaml holds the values, dvc.yaml says which of them a stage may read, the stage says their types.

`python -m stages.common.params` checks the whole of params.yaml against every stage and prints all faults at once.
"""

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from stages.common.errors import UserError, one_line, run

T = TypeVar("T")
UNTRACKED = "llm"  # never changes an answer, so no stage declares it and changing it re-runs nothing


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


def leaves(tree: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of the leaves of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def unknown_endpoint(name: str, known: list[str]) -> str:
    """What to say of an endpoint that section llm does not name."""
    return f"endpoint {name!r}: not among llm.endpoints{_near(name, known)}"


def served(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted key, endpoint) wherever params name a model as `<endpoint>:<model>`: roles, judges, models under test."""
    found = [(f"roles.{k}", v) for k, v in _mapping(params, "roles").items() if str(k).endswith("_model")]
    judges = _mapping(params, "judge").get("models")
    found += [("judge.models", v) for v in judges] if isinstance(judges, list) else []
    arms = _mapping(params, "arms").items()
    found += [(f"arms.{name}.model", arm.get("model")) for name, arm in arms if isinstance(arm, dict)]
    for key, model in found:
        endpoint, colon, _ = str(model).partition(":")
        if colon:
            yield key, endpoint


def _mapping(params: dict[str, Any], section: str) -> dict[str, Any]:
    values = params.get(section)
    return values if isinstance(values, dict) else {}  # what is wrong with it is named elsewhere


def unbound(params: dict[str, Any]) -> Iterator[str]:
    """Faults of models at an endpoint that section llm does not name."""
    if isinstance(params.get(UNTRACKED), dict):
        known = list(params[UNTRACKED].get("endpoints") or [])
        yield from (f"{key}: {unknown_endpoint(name, known)}" for key, name in served(params) if name not in known)


def keyless(params: dict[str, Any]) -> list[str]:
    """What to say of endpoints in use whose key is not there. No fault: stored replies need none."""
    key_named = importlib.import_module("stages.common.endpoint").key_named  # by name: no stage comes here, or depends on it
    endpoints = _mapping(_mapping(params, UNTRACKED), "endpoints")
    used = {name: endpoints[name].get("key_env") for _, name in served(params) if name in endpoints}
    return [
        f"endpoint {name}: {variable} is neither in the environment nor in .env; a call whose reply is not stored will stop"
        for name, variable in sorted(used.items())
        if variable and not key_named(variable)
    ]


def _section(name: str, schema: type[T], values: Any, faults: list[str]) -> T | None:
    """One section as an instance of its dataclass; what is wrong with it is added to `faults`."""
    from omegaconf import OmegaConf

    if not isinstance(values, dict):
        faults.append(f"{name}: expected a section, found {values!r}")
        return None
    known = {f.name: f for f in fields(cast(Any, schema))}
    hints = get_type_hints(schema)
    before = len(faults)
    full = [f"{name}.{key}" for key in known]
    faults.extend(f"{name}.{key}: unknown{_near(f'{name}.{key}', full)}" for key in values if key not in known)
    config = OmegaConf.structured(schema)
    made: dict[str, Any] = {}
    for key, f in known.items():
        if key not in values:
            if f.default is MISSING and f.default_factory is MISSING:
                faults.append(f"{name}.{key}: missing")
        elif is_dataclass(hints[key]):
            made[key] = _section(f"{name}.{key}", cast(type[Any], hints[key]), values[key], faults)
        elif get_origin(hints[key]) is dict and is_dataclass(inner := get_args(hints[key])[1]):
            named = values[key] or {}
            if not isinstance(named, dict):
                faults.append(f"{name}.{key}: expected a section, found {named!r}")
                continue
            made[key] = {k: _section(f"{name}.{key}.{k}", cast(type[Any], inner), v, faults) for k, v in named.items()}
        else:
            try:
                config[key] = values[key]
                made[key] = OmegaConf.to_object(config[key]) if OmegaConf.is_config(config[key]) else config[key]
            except Exception as e:
                text = str(e.__cause__) if isinstance(e.__cause__, ValueError) else one_line(e)
                faults.append(f"{name}.{key}: {one_line(text)}")
    if len(faults) > before:
        return None
    try:
        return schema(**made)
    except ValueError as e:  # raised by `require` in __post_init__
        faults.extend(f"{name}.{fault}" for fault in str(e).split("; "))
        return None


def _read(stage: str, schema: type[T], params: dict[str, Any], keys: list[str], faults: list[str]) -> T | None:
    sections: dict[str, Any] = {}
    hints = get_type_hints(schema)
    for f in fields(cast(Any, schema)):
        whole = f.name in keys or f.name == UNTRACKED
        wanted = None if whole else {k.split(".", 1)[1] for k in keys if k.startswith(f.name + ".")}
        if not whole and not wanted:
            raise UserError(f"dvc.yaml: stage {stage} does not declare params {f.name}, which its code reads")
        values = params.get(f.name)
        if not isinstance(values, dict):
            missing = f"section missing{_near(f.name, list(params))}"
            faults.append(f"{f.name}: {f'expected a section, found {values!r}' if f.name in params else missing}")
            continue
        if wanted is not None:
            values = {k: v for k, v in values.items() if k in wanted}
        sections[f.name] = _section(f.name, cast(type[Any], hints[f.name]), values, faults)
    return None if faults else schema(**sections)


def load(stage: str, schema: type[T]) -> T:
    """Parameters of `stage`: a dataclass whose fields are sections of params.yaml, restricted to the declared keys.

    Raises:
        UserError: every unknown, missing, mistyped or out-of-range value, in one line.
    """
    faults: list[str] = []
    keys = declared(load_yaml("dvc.yaml")).get(stage)
    if keys is None:
        raise UserError(f"dvc.yaml: has no stage {stage}")
    result = _read(stage, schema, load_yaml("params.yaml"), keys, faults)
    if result is None:
        raise UserError("params.yaml: " + "; ".join(faults))
    return result


def declared_values(stage: str) -> dict[str, Any]:
    """Values of the keys that dvc.yaml declares for `stage`, by dotted key: what its result files name as their protocol."""
    params = load_yaml("params.yaml")
    found = {}
    for key in declared(load_yaml("dvc.yaml"))[stage]:
        value = params
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def require(*checks: tuple[bool, str]) -> None:
    """For `__post_init__`: raise ValueError with the texts of all checks that do not hold, `; ` between them."""
    wrong = [text for holds, text in checks if not holds]
    if wrong:
        raise ValueError("; ".join(wrong))


def check(values: dict[str, Any] | None = None) -> list[str]:
    """All faults of params.yaml, or of `values` in its place, for every stage at once."""
    pipeline, params = load_yaml("dvc.yaml"), load_yaml("params.yaml") if values is None else values
    faults: list[str] = []
    stages = declared(pipeline)
    arms = {name: str(s["foreach"])[2:-1] for name, s in pipeline["stages"].items() if isinstance(s.get("foreach"), str)}
    known = sorted({k for keys in stages.values() for k in keys} | set(arms.values()))
    sections = {k.split(".")[0] for k in known}
    for leaf in leaves(params):
        section = leaf.split(".")[0]
        if section == UNTRACKED or any(leaf == k or leaf.startswith(k + ".") for k in known):
            continue
        near = _near(leaf, known) if section in sections else _near(section, sorted(sections))
        faults.append(f"{leaf}: unknown{near}")
    for stage, keys in stages.items():
        found: list[str] = []
        module = importlib.import_module(f"stages.{stage}")
        if hasattr(module, "Params"):
            _read(stage, module.Params, params, keys, found)
        if stage in arms and hasattr(module, "Arm"):  # dvc.yaml makes a stage of each line of the section
            for name, arm in (params.get(arms[stage]) or {}).items():
                _section(f"{arms[stage]}.{name}", module.Arm, arm, found)
        faults.extend(f for f in found if f not in faults)
    return [*faults, *unbound(params)]


def main() -> None:
    values = load_yaml("params.yaml")
    faults = check(values)
    if faults:
        raise UserError("params.yaml: " + "; ".join(faults))
    print("params.yaml: no fault", *keyless(values), sep="\n")


if __name__ == "__main__":
    run(main)
