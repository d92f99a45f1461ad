"""Checks params.yaml against every stage: all faults in one message.

Run: python -m stages.tools.check
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from stages import (
    base_model,
    calibrate,
    choose,
    converse,
    dpo,
    eval,
    external,
    extract_pairs,
    filter_personas,
    judge,
    roleplay,
    seed_personas,
    sft,
)
from stages.core.cli import UserError, run
from stages.core.params import UNTRACKED, Round, Section, checked, declared, flat, in_round, load_yaml, near, restricted
from stages.dialogue.settings import Arm
from stages.llm.endpoint import key_named
from stages.llm.profiles import advised
from stages.llm.request import request
from stages.llm.settings import Limits, Role, Sampling, unknown_endpoint

MODULES: tuple[ModuleType, ...] = (
    base_model, seed_personas, filter_personas, roleplay, extract_pairs, sft, dpo, converse, choose, external, calibrate,
    judge, eval
)  # fmt: skip
SETTINGS = {  # of params.yaml, by the parameter that carries it
    "temperature": "temp", "top_p": "top_p", "frequency_penalty": "penalty", "max_tokens": "tokens", "logprobs": "logprobs"
}  # fmt: skip
LINES: dict[str, type[Section]] = {
    "arms": Arm,
    "rounds": Round,
}  # sections of lines, each of which gives stages
STAGES = {module.__name__.rpartition(".")[2]: module for module in MODULES}


def asked(params: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(dotted key, model, beginning of its sampling's keys, that sampling) wherever params name `<endpoint>:<model>`."""
    roles = _mapping(params, "roles")
    found = []
    for key, model in roles.items():
        name, _, setting = str(key).rpartition("_")
        if setting == "model":
            sampling = {k.removeprefix(f"{name}_"): v for k, v in roles.items() if str(k).startswith(f"{name}_")}
            found.append((f"roles.{key}", model, f"roles.{name}_", sampling))
    converse = _mapping(params, "converse")
    quoter = _mapping(converse, "quotes")
    found.append(("converse.user_model", converse.get("user_model"), "user.", _mapping(params, "user")))
    found.append(("converse.quotes.model", quoter.get("model"), "converse.quotes.", quoter))
    for name in ("generator", "user", "judge"):
        section = _mapping(params, name)
        found.append((f"{name}.model", section.get("model"), f"{name}.", section))
    judges = _mapping(params, "judge")
    more = judges.get("models")
    found += [("judge.models", model, "judge.", judges) for model in more] if isinstance(more, list) else []
    arms = _mapping(params, "arms").items()
    found += [(f"arms.{k}.model", arm.get("model"), "converse.", converse) for k, arm in arms if isinstance(arm, dict)]
    return ((key, str(model), place, sampling) for key, model, place, sampling in found if ":" in str(model))


def served(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted key, endpoint) wherever params name a model as `<endpoint>:<model>`: roles, judges, models under test."""
    return ((key, model.partition(":")[0]) for key, model, _, _ in asked(params))


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
    endpoints = _mapping(_mapping(params, UNTRACKED), "endpoints")
    used = {name: endpoints[name].get("key_env") for _, name in served(params) if name in endpoints}
    return [
        f"endpoint {name}: {variable} is neither in the environment nor in .env; a call whose reply is not stored will stop"
        for name, variable in sorted(used.items())
        if variable and not key_named(variable)
    ]


def unsent(params: dict[str, Any]) -> list[str]:
    """What to say of settings that a model does not see as params have them, and of models that refuse a plain request."""
    notes: dict[str, None] = {}  # in order, each once
    for key, model, place, sampling in asked(params):
        name, _, there = model.partition(":")
        endpoint, _ = checked(Limits, _mapping(_mapping(params, UNTRACKED), "endpoints").get(name))
        if endpoint is None:
            continue  # a fault, which is named elsewhere
        wire = endpoint.wire(there)
        family = advised(endpoint.aliases.get(there, there))
        if family and wire.neutral:
            notes[f"{key}: {model} refuses parameters that are sent; set llm.endpoints.{name}.profile to {family}"] = None
        values = {field: sampling[field] for field in Sampling.model_fields if field in sampling}
        logprobs = 1 if place == "judge." and sampling.get("logprobs") else 0
        role, _ = checked(Role, {**values, "name": key, "model": model, "logprobs": logprobs})
        if role is None:
            continue
        for parameter, what in request(model, role, [], 0, wire=wire).unsent.items():
            if parameter == "seed":
                notes[f"{key}: no seed is sent to {model}: a draw cannot be repeated"] = None
            elif setting := SETTINGS.get(parameter):
                notes[f"{place}{setting}: {sampling.get(setting)} {what} to {model}"] = None
        if wire.note:
            notes[f"endpoint {name}: {wire.note}"] = None
    return [*notes]


def check(values: dict[str, Any] | None = None) -> list[str]:
    """All faults of params.yaml, or of `values` in its place, for every stage at once."""
    pipeline, params = load_yaml("dvc.yaml"), load_yaml("params.yaml") if values is None else values
    faults: list[str] = []
    stages = declared(pipeline)
    lines = {str(s["foreach"])[2:-1] for s in pipeline["stages"].values() if isinstance(s.get("foreach"), str)}
    known = sorted({k for keys in stages.values() for k in keys if "$" not in k} | lines)
    sections = {k.split(".")[0] for k in known}
    for leaf, _ in flat(params):
        section = leaf.split(".")[0]
        if section == UNTRACKED or any(leaf == k or leaf.startswith(k + ".") for k in known):
            continue
        faults.append(f"{leaf}: unknown{near(leaf, known) if section in sections else near(section, sorted(sections))}")
    if not (sets := Path("prompts") / str(params.get("prompts"))).is_dir():
        faults.append(f"prompts: no folder {sets}")
    for stage, keys in stages.items():
        if module := STAGES.get(stage):
            faults += checked(module.Params, restricted(stage, module.Params, params, keys))[1]
    for section, schema in LINES.items():
        for name, line in (params.get(section) or {}).items():
            faults += [f"{section}.{name}.{fault}" for fault in checked(schema, line)[1]]
    return [*dict.fromkeys(faults or in_rounds(params, stages)), *unbound(params)]


def in_rounds(params: dict[str, Any], stages: dict[str, list[str]]) -> Iterator[str]:
    """Faults of what the lines of section rounds make of other sections. `stages`: declared keys by stage."""
    for name in _mapping(params, "rounds"):
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            yield f'rounds.{name}: name it by letters and digits, in quotes ("2"): DVC makes no stage of a number'
            continue
        values = in_round(params, name)
        for stage in ("roleplay", "extract_pairs", "dpo"):
            module = STAGES[stage]
            found = checked(module.Params, restricted(stage, module.Params, values, stages[stage]))[1]
            yield from (f"rounds.{name}.{fault}" for fault in found)


def main() -> None:
    values = load_yaml("params.yaml")
    faults = check(values)
    if faults:
        raise UserError("params.yaml: " + "; ".join(faults))
    print("params.yaml: no fault", *unsent(values), *keyless(values), sep="\n")


if __name__ == "__main__":
    run(main)
