"""Roles on several servers at once, as docs/endpoints.md says, and a model that is not the one asked for."""

import json
import re
import shlex
import subprocess
from collections import Counter

import pytest
from conftest import ROOT, Server, complains, completion
from omegaconf import OmegaConf
from pages import blocks, commands, section
from repository import as_dvc_sees_it

from stages.llm.profiles import LOGPROBS, PENALTIES, PROFILES, SAMPLING
from stages.llm.settings import Limits

PEOPLE = [
    {"profile": "I fish at sea. I own two boats. My leg hurts.", "personality": "I am shy, loud, and kind."},
    {"profile": "I sell old maps. I walk to work. My cat is blind.", "personality": "I am vain, dry, and fair."},
]
ENDPOINTS = OmegaConf.to_container(OmegaConf.create(blocks("endpoints", "yaml")[0]))["endpoints"]
PARAMETERS = ("seed", "stop", *SAMPLING, *PENALTIES, *LOGPROBS)
WORDS = {  # how the scripted roles are known: the beginning of their system prompt
    "You are a person who writes": "user",
    "You write down": "inducer",
    "Two replies": "verifier",
}


def settings_of_the_page() -> dict[str, str]:
    """Role -> endpoint:model, from the page's `dvc exp run`."""
    _, _, line = commands("endpoints", "Roles on different")
    assert line.startswith("dvc exp run")
    return dict(word.split("=") for word in shlex.split(line) if "=" in word)


def test_no_command_of_the_page_is_left_out():
    run = ("Roles on different", "Starting the servers")
    assert commands("endpoints") == [line for heading in run for line in commands("endpoints", heading)]


@pytest.mark.slow
def test_the_page_checks_and_plans_before_it_asks(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    as_dvc_sees_it(project)
    project.set(filter_personas__train=4, filter_personas__eval_profiles=2, roleplay__turns=3, converse__turns=3)
    project.set(llm__endpoints=ENDPOINTS, **{k.replace(".", "__"): v for k, v in settings_of_the_page().items()})
    first, second, _ = (shlex.split(c) for c in commands("endpoints", "Roles on different"))
    assert first[:2] == second[:2] == ["python", "-m"]
    project._run(first[2:], check=True)
    table = project._run(second[2:], check=True).stdout
    assert re.search(r"roleplay +verifier +0 +24 .* unknown", table)  # a server of one's own has no price
    assert re.search(r"judge@dpo +judge +0 +12 .* 0\.00 ", table)


@pytest.mark.slow
def test_every_role_of_the_page_reaches_its_own_server(project, monkeypatch):
    servers = {}
    for name, limits in ENDPOINTS.items():
        monkeypatch.setenv(limits["key_env"], f"key-of-{name}")
        servers[name] = Server()
        limits = {**limits, "base_url": servers[name].url, "requests_per_minute": 0}
        OmegaConf.update(project.params, f"llm.endpoints.{name}", limits)
    for key, value in settings_of_the_page().items():
        OmegaConf.update(project.params, key, value)
        endpoint, model = value.split(":")
        servers[endpoint].models = [*(servers[endpoint].models or []), model]
    project.set(roleplay__turns=2)
    project._run(["stages.tools.check"], check=True)
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PEOPLE))
    project.run("roleplay")

    asked = Counter()
    for name, server in servers.items():
        for body in server.requests:
            system = body["messages"][0]["content"]
            role = next((role for words, role in WORDS.items() if system.startswith(words)), "preferred or rejected")
            asked[role, f"{name}:{body['model']}"] += 1
    bound = {re.split(r"[._]", key.removeprefix("roles."))[0]: value for key, value in settings_of_the_page().items()}
    turns = len(PEOPLE) * 2
    assert bound["preferred"] == bound["rejected"] and len(set(bound.values())) == 4
    assert asked == {
        ("user", bound["user"]): turns,
        ("inducer", bound["inducer"]): turns,
        ("preferred or rejected", bound["preferred"]): 2 * turns,
        ("verifier", bound["verifier"]): 2 * turns,
    }
    assert all(servers[n].keys == {f"Bearer key-of-{n}"} for n in servers if n != "openai")
    calls = json.loads((project.folder / "results/roleplay.json").read_text())["calls"]
    assert {role: calls[role]["served"] for role in ("user", "inducer", "verifier")} == {
        role: bound[role].split(":")[1] for role in ("user", "inducer", "verifier")
    }
    for server in servers.values():
        server.stop()


def cells(profile: str, model: str, add: dict) -> tuple[str, str, str]:
    """What the page's table says of a model by its profile: not sent, sent otherwise, tokens for thinking."""
    wire = Limits(profile=profile, add=add).wire(model)
    dropped = [name for name in PARAMETERS if name in wire.omit or (name == "top_p" and not wire.both)]
    other = [f"`{old}` as `{new}`" for old, new in wire.rename.items()]
    other += [f"`{name}` up to {most}" for name, most in wire.cap.items() if name not in wire.omit]
    other += [f"`{name}: {json.dumps(value)}`" for name, value in wire.defaults.items()]
    other += [] if wire.blank_stop else ["`stop` without blank texts"]
    return ", ".join(f"`{name}`" for name in dropped), ", ".join(other), str(wire.thinking or "")


def test_the_table_says_what_each_profile_does():
    lines = [line for line in section("endpoints").splitlines() if line.startswith("| ") and line.count("|") == 7]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows.pop(0) == ["server", "`profile`", "models, such as", "not sent", "sent otherwise", "tokens for thinking"]
    assert {row[1].strip("`") for row in rows} == set(PROFILES)
    for _, profile, models, *said in rows:
        names, _, added = models.partition(" with ")
        add = json.loads(f"{{{added.strip('`')}}}") if added else {}
        for model in names.split(", "):
            assert tuple(said) == cells(profile.strip("`"), model.strip("`"), add), (profile, model)


def test_the_list_of_what_a_sampling_setting_touches_is_whole():
    """The page names every place that knows the last one by name."""
    places = {
        p for p in re.findall(r"`((?:stages|tests)/[\w/]+\.py)`", section("endpoints").split("## Adding a sampling")[1])
    }
    knows = {str(f.relative_to(ROOT)) for f in [*ROOT.glob("stages/llm/*.py"), *ROOT.glob("stages/tools/*.py")]
             if "frequency_penalty" in f.read_text()}  # fmt: skip
    assert knows <= places and all((ROOT / p).exists() for p in places)


def test_start_lines_agree_with_the_endpoints_and_the_roles():
    """Their dry form: the shell reads them, and each serves the name, at the port and with the key that the stages use."""
    first, *others = commands("endpoints", "Starting the servers")
    starts = [c for c in others if re.match(r"vllm serve|python -m sglang|llama-server", c)]
    served = {}
    for line in (first, *others):
        assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    assert first.startswith("ssh -N -L 8000:127.0.0.1:8000 ")
    for line in starts:
        words = shlex.split(line)
        option = {w: v for w, v in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")}
        assert option["--host"] == "127.0.0.1"
        kind = {"vllm": "vllm", "python": "sglang", "llama-server": "llamacpp"}[words[0]]
        assert ENDPOINTS[kind]["base_url"] == f"http://127.0.0.1:{option['--port']}/v1"
        assert kind == "llamacpp" or option["--load-format"] == "safetensors"
        assert kind != "sglang" or option["--api-key"] == f"${ENDPOINTS[kind]['key_env']}"
        assert "--trust-remote-code" not in words
        served.setdefault(kind, []).append(option.get("--served-model-name") or option["--alias"])
        if kind == "llamacpp":
            assert int(option["--parallel"]) == ENDPOINTS[kind]["concurrency"]
    assert starts == others and len(starts) == 3
    for value in settings_of_the_page().values():
        endpoint, model = value.split(":")
        assert endpoint == "openai" or model == served[endpoint][0]


@pytest.mark.slow
def test_a_stage_stops_before_it_has_asked_much(project, server):
    server.reply = lambda body: (200, {**completion("hello", body), "model": "cheaper"})
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PEOPLE * 10))
    complains(project.run("roleplay", check=False), "serves cheaper, not tiny")
    assert len(server.requests) <= 4  # conversations_in_flight, of one call each
    assert not (project.folder / "data/trees.jsonl").exists()
