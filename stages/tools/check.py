"""Checks params.yaml against every stage: all faults in one message.

Run: python -m stages.tools.check
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
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
from stages.core import prompts
from stages.core.cli import UserError, run
from stages.core.params import UNTRACKED, Round, Section, checked, declared, flat, in_round, load_yaml, near, restricted
from stages.dialogue import binding
from stages.dialogue.inducer import refusal
from stages.dialogue.settings import Arm
from stages.llm.endpoint import key_named
from stages.llm.profiles import advised
from stages.llm.request import request
from stages.llm.settings import EMBEDDED, Limits, Role, Sampling, unknown_endpoint
from stages.pairs.selection import NEGATIVES

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
_VARIABLE = re.compile(r"\$\{([^}]+)\}")  # of dvc.yaml
_RESPONDER = ("message", "note")
FILLS: dict[str, tuple[str, ...]] = {  # the variables of a prompt file that roles fill in, in one kind of set or the other
    "user": ("persona", "reply", "fact", "agenda"), "inducer": ("message", "items", "conversation", "none", "piece", "item"),
    **dict.fromkeys(("responder", "preferred", "rejected", "misinformed"), _RESPONDER),
    "verifier": ("persona", "message", "conversation", "first", "second"), "judge": ("persona", "conversation", "reply"),
    "profile": ("count", "items"), "personality": ("count", "items"), "choice": ("message", "replies"), "read_out": (),
}  # fmt: skip
ARM_FILLS = ("persona", "conversation", "message")  # of the prompt of an arm
STAGES = {module.__name__.rpartition(".")[2]: module for module in MODULES}


def asked(params: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(dotted key, model, beginning of its sampling's keys, that sampling) of every role and arm in params."""
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
    return ((key, model, place, sampling) for key, model, place, sampling in found if isinstance(model, str))


def served(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted key, endpoint) wherever params name a model as `<endpoint>:<model>`: roles, judges, models under test."""
    return ((key, model.partition(":")[0]) for key, model, _, _ in asked(params) if ":" in model)


def _mapping(params: dict[str, Any], section: str) -> dict[str, Any]:
    values = params.get(section)
    return values if isinstance(values, dict) else {}  # what is wrong with it is named elsewhere


def unbound(params: dict[str, Any]) -> Iterator[str]:
    """Faults of models that are neither local nor at an endpoint that section llm names."""
    endpoints = _mapping(_mapping(params, UNTRACKED), "endpoints")
    yield from (f"{key}: {unknown_endpoint(name, list(endpoints))}" for key, name in served(params) if name not in endpoints)
    priced = [f"{name}:{model}" for name, e in endpoints.items() if isinstance(e, dict) for model in _mapping(e, "prices")]
    for key, model, _, _ in asked(params):
        arm = key.startswith("arms.")  # a role has no Hub id
        own = binding.LOCAL if arm else EMBEDDED
        if model != own and ":" not in model and not (arm and "/" in model):
            either = f"neither {own}, <endpoint>:<model> nor a Hub id" if arm else f"neither {own} nor <endpoint>:<model>"
            yield f"{key}: {model!r} is {either}{near(model, [own, *priced])}"


def untrained(params: dict[str, Any]) -> Iterator[str]:
    """Faults of losses that TRL has not. Its source lists them; to import it takes seconds."""
    spec, losses = find_spec("trl"), _mapping(params, "dpo").get("loss_type")
    source = Path(spec.origin).with_name("trainer") / "dpo_config.py" if spec and spec.origin else Path()
    known = re.findall(r"`'(\w+)'`", source.read_text().partition("loss_type:")[2].partition("loss_weights:")[0])
    for loss in losses if isinstance(losses, list) else [losses]:
        if known and isinstance(loss, str) and loss not in known:
            yield f"dpo.loss_type: {loss!r} is no loss of TRL{near(loss, known)}"


def absent(pipeline: dict[str, Any], params: dict[str, Any]) -> Iterator[str]:
    """Faults of files and folders that params name, which are not there and which no stage and no `dvc pull` makes."""
    leaves, named, made = dict(flat(params)), dict[Path, str](), set[Path]()
    for stage in pipeline["stages"].values():
        body, section = stage.get("do", stage), str(stage.get("foreach", "${}"))[2:-1]
        inside = (leaf.removeprefix(f"{section}.") for leaf in leaves if leaf.startswith(f"{section}."))
        for line in dict.fromkeys(leaf.split(".")[0] for leaf in inside) if section else [""]:
            for path in [*body.get("deps", []), *(outs := [*body.get("outs", []), *body.get("metrics", [])])]:
                text = str(path if isinstance(path, str) else next(iter(path))).replace("${key}", line)
                text = text.replace("${item", f"${{{section}.{line}")
                keys = _VARIABLE.findall(text)
                if all(isinstance(leaves.get(key), str) for key in keys):  # another fault, else
                    filled = Path(_VARIABLE.sub(lambda m: leaves[m[1]], text))
                    if path in outs:
                        made.add(filled)
                    elif keys:
                        named[filled] = keys[-1]
    for key in ("base_model.source", "encoder.model"):
        if str(leaves.get(key)).startswith(("/", ".")):
            named[Path(leaves[key])] = key
    of_set = Path("prompts") / str(params.get("prompts"))
    if not of_set.is_dir():
        yield f"prompts: no folder {of_set}"
    for path, key in named.items():
        known = path.exists() or any(p in made or Path(f"{p}.dvc").exists() for p in (path, *path.parents))
        if not known and (of_set.is_dir() or of_set not in (path, *path.parents)):
            yield f"{key}: no such file or folder {path}"


def misnamed(params: dict[str, Any]) -> Iterator[str]:
    """Faults of the names of arms: that no file can have, or that section choose takes for an arm's."""
    arms, chosen = _mapping(params, "arms"), _mapping(params, "choose").get("arms")
    for name in arms:
        if not re.fullmatch(r"[\w.-]+", str(name)):
            yield f"arms.{name}: name it by letters, digits, dots, - and _: the arm's files have its name"
    for name in chosen if isinstance(chosen, list) else []:
        if name not in arms:
            yield f"choose.arms: there is no arm {name}{near(str(name), arms)}"


def overlapping(params: dict[str, Any]) -> Iterator[str]:
    """Faults of params that need an inducer that quotes, where the prompt set's tells items by words in common."""
    wanted = {
        "roles.inducer_form: letters": _mapping(params, "roles").get("inducer_form") == "letters",
        "converse.quotes:": _mapping(params, "converse").get("quotes") is not None,
    }
    path = Path("prompts") / str(params.get("prompts")) / "inducer.txt"
    if any(wanted.values()) and path.is_file():
        with suppress(UserError):  # `unfilled` names it
            prompt = prompts.load(path)
            yield from filter(None, (refusal(param, prompt) for param, needed in wanted.items() if needed))


def unfilled(params: dict[str, Any]) -> Iterator[str]:
    """Faults of variables in the prompt set that no role fills, so that a stage would stop in the middle of a run."""
    folder = Path("prompts") / str(params.get("prompts"))
    arms = [str(arm.get("prompt")) for arm in _mapping(params, "arms").values() if isinstance(arm, dict)]
    filled = {**dict.fromkeys(arms, ARM_FILLS), **FILLS}
    for path in sorted(path for path in folder.rglob("*.txt") if path.stem in filled):
        try:
            names = prompts.load(path).variables
        except UserError as e:
            yield str(e)
            return  # of a set.yaml's fault every file would tell
        for name in sorted(names - {*filled[path.stem]}):
            yield f"{path}: no role fills {{{name}}}{near(name, filled[path.stem])}"


def by_round(params: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(beginning of its keys, sections) of the first round and of each line of section rounds, which has what it changes."""
    rounds = _mapping(params, "rounds")
    yield from (("", params), *((f"rounds.{name}.", _mapping(rounds, name)) for name in rounds))


def leaking(params: dict[str, Any]) -> Iterator[str]:
    """Faults of groups of users that are trained on and measured by."""
    measured = Path(str(_mapping(params, "choose").get("groups")))
    for at, values in by_round(params):
        trained = _mapping(values, "extract_pairs").get("groups")
        if isinstance(trained, str) and measured.is_relative_to(trained):
            yield f"{at}extract_pairs.groups: {trained} holds {measured}, by which crossed choice measures; train on others"


def unmade(pipeline: dict[str, Any], params: dict[str, Any]) -> Iterator[str]:
    """Faults of negatives that no role-play makes. Trees of one's own may hold them."""
    grown = pipeline["stages"].get("roleplay", {}).get("outs", [])
    for at, values in by_round(params):
        roleplay, pairs = ({**_mapping(params, name), **_mapping(values, name)} for name in ("roleplay", "extract_pairs"))
        more = Path(str(pairs.get("more_trees")))
        own = more.is_file() or any(more.glob("*.jsonl")) or (not at and pairs.get("trees") not in grown)
        replies, negatives = roleplay.get("replies"), pairs.get("negatives")
        if not own and isinstance(replies, list) and isinstance(negatives, list):
            for kind in NEGATIVES:
                if kind in negatives and kind not in replies:
                    yield f"{at}extract_pairs.negatives: {at}roleplay.replies makes no {kind} reply; add it there"


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
    for stage, keys in stages.items():
        if module := STAGES.get(stage):
            faults += checked(module.Params, restricted(stage, module.Params, params, keys))[1]
    for section, schema in LINES.items():
        if not isinstance(values := params.get(section) or {}, dict):
            faults.append(f"{section}: input should be a valid dictionary, found {values!r}")
        for name, line in _mapping(params, section).items():
            faults += [f"{section}.{name}.{fault}" for fault in checked(schema, line)[1]]
    faults += [] if faults else in_rounds(params, stages)
    said = {fault.partition(": ")[0] for fault in faults}
    of_params = (fault for find in (untrained, unbound, misnamed, overlapping, unfilled, leaking) for fault in find(params))
    more = [*absent(pipeline, params), *of_params, *unmade(pipeline, params)]
    return [*dict.fromkeys([*faults, *(fault for fault in more if fault.partition(": ")[0] not in said)])]


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
