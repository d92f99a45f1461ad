"""The rehearsal, but for running it: its stages find what they read, and its server passes for the models asked."""

import json
import shlex

import pytest
from conftest import ROOT

from benchmarks import faults, rehearsal
from stages.core import prompts
from stages.dialogue import grow, quotes

ITEMS = ["I mend nets on the beach.", "I owe my brother for a boat.", "I am curt."]
SET = "prompts/natural"  # of the paper preset

pytestmark = pytest.mark.slow


def test_every_stage_finds_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made: set[str] = set()
    order = rehearsal.prepare(tmp_path, 0.01, "http://127.0.0.1:9/v1")
    assert len(order) > 20
    for name, command, outs in order:
        made.update(outs)
        if any(out.startswith("models/") for out in outs):
            continue  # is not rehearsed
        for path in (word for word in shlex.split(command) if "/" in word):
            made_before = any(path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/") for out in made)
            assert (tmp_path / path).exists() or made_before, (name, path)


def test_the_script_answers_as_the_model_that_is_asked():
    chat = [{"role": "system", "content": "You rate replies."}, {"role": "user", "content": "Rate it."}]
    body = json.dumps({"model": "script", "seed": 1, "messages": chat}).encode()
    answer = rehearsal.Script(latency=0).answer(body)[3]
    assert answer["model"] == "script" and answer["choices"][0]["message"]["content"] in "12345"


def said(chat):
    """What the script says to a chat."""
    return rehearsal.reply({"model": "script", "seed": 1, "messages": chat})


def test_the_script_shows_an_item_and_quotes_it():
    user = prompts.load(ROOT / SET / "user.txt")
    message = said(
        [*user.messages(persona=" ".join(ITEMS)), {"role": "user", "content": user.part("turn", agenda=ITEMS[1])}]
    )
    chat = quotes.messages(prompts.load(ROOT / SET / "inducer.txt"), ITEMS, [{"role": "user", "content": message}])
    assert quotes.parse(said(chat), ITEMS, [message]) == [{"item": 1, "quote": "I owe my brother for"}]


def test_the_scripts_verifier_prefers_the_note_on_this_user_in_both_orders():
    responder, verifier = (prompts.load(ROOT / SET / name) for name in ("responders/responder.txt", "verifier.txt"))
    own, other = (said(grow.informed(responder, [], "Hm.", [note])) for note in (ITEMS[1], "I teach chemistry."))
    for first, second, chosen in ((own, other, 1), (other, own, 2)):
        chat = verifier.messages(persona=" ".join(ITEMS), conversation="", first=first, second=second)
        assert grow.parse_verdict(said(chat)) == chosen


def test_role_play_of_the_benchmark_of_faults_makes_all_its_calls(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", "")  # which the benchmark sets
    faults.roleplay(1, 2, 1)
    assert "| 1 x 2 turns, 1 at once | 12 |" in capsys.readouterr().out
