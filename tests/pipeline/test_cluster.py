"""The start lines of docs/cluster.md, in dry form: addresses and ranks agree, and accelerate's parser takes its own."""

import re
import shlex

import pytest
from conftest import ROOT, filled
from omegaconf import OmegaConf
from pages import blocks, commands

from stages.llm.settings import Limits

STARTS = [shlex.split(line) for line in commands("cluster")]


def option(words: list[str]) -> dict[str, str]:
    return {w: v for w, v in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")}


def test_no_command_of_the_page_is_left_out():
    known = ("ssh ", "vllm-router ", "dvc exp run ", "accelerate launch ")
    lines = commands("cluster")
    assert all(line.startswith(known) or re.match(r"(\S+=\S+ )?(vllm serve|ray start) ", line) for line in lines)
    assert len(lines) == 12


def test_the_servers_are_where_the_endpoint_and_the_router_look_for_them():
    limits = Limits(**OmegaConf.to_container(OmegaConf.create(blocks("cluster", "yaml")[0]))["endpoints"]["vllm"])
    serving = [words for words in STARTS if "serve" in words]
    for words in serving:
        given = option(words)
        assert (
            given["--host"] == "127.0.0.1" and given["--load-format"] == "safetensors" and "--trust-remote-code" not in words
        )
    ports = [option(words)["--port"] for words in serving]
    assert limits.urls == [f"http://127.0.0.1:{port}/v1" for port in ports[:2]] and set(ports[2:]) == {"8000"}
    (router,) = (words for words in STARTS if words[0] == "vllm-router")
    assert [f"{url}/v1" for url in router[router.index("--worker-urls") + 1 :]] == limits.urls
    head, node = (words for words in STARTS if words[1] == "ray")
    assert f"{option(head)['--node-ip-address']}:{option(head)['--port']}" == option(node)["--address"]


@pytest.mark.slow
def test_both_nodes_train_the_same():
    from accelerate.commands.launch import launch_command_parser

    (run,) = (words for words in STARTS if words[0] == "dvc" and "sft" in words)
    params = OmegaConf.load(ROOT / "params.yaml")
    for change in (word for word in run if "=" in word):
        OmegaConf.update(params, *change.split("=", 1))
    params.train.launch = params.train.launch.strip("'")
    cmds = OmegaConf.to_container(OmegaConf.load(ROOT / "dvc.yaml").stages, resolve=False)
    others = [words for words in STARTS if words[0] == "accelerate"]
    for words, stage in zip(others, ("sft", "dpo"), strict=True):
        own = shlex.split(filled(cmds[stage]["cmd"], params))
        rank = own.index("--machine_rank") + 1
        assert own[rank] == "0" and words == [*own[:rank], "1", *own[rank + 1 :]]
        given = launch_command_parser().parse_args(words[2:])
        assert (given.num_machines, given.num_processes, given.machine_rank) == (2, 16, 1)
        assert int(params[stage].gradient_accumulation_steps) % given.num_processes == 0
