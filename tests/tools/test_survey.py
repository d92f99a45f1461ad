"""The survey: what it asks, that its page does not give itself away, and (in headless Chromium) that it can be answered."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from conftest import complains

from stages.core.files import write_jsonl
from stages.tools import people, survey

NASTY = "<script>window.hacked=1</script><!-- \u2028 & {{ 7 * 7 }}"


def tree(name, *turns, **more):
    """A tree whose first replies continue: (message, preferred, rejected, verdicts) of each turn."""
    nodes, at = [], "u"
    for message, preferred, rejected, chosen in turns:
        verdicts = [{"first": f, "chosen": c, "raw": ""} for f, c in zip(("preferred", "rejected"), chosen, strict=False)]
        nodes += [
            {"id": at, "role": "user", "text": message, "verdicts": verdicts},
            {"id": f"{at}/p", "role": "preferred", "text": preferred, "continues": True},
            {"id": f"{at}/r", "role": "rejected", "text": rejected},
        ]
        at += "/p/u"
    return {"id": name, "profile": f"profile of {name}", "items": [f"item of {name}"], "nodes": nodes, **more}


TREES = [
    tree("t1", ("Hello.", "Warm one.", "Plain one.", ["preferred", "preferred"]),
         ("Tell me more.", f"Warm two. {NASTY}", "Plain two.", ["preferred", "rejected"])),
    tree("t2", ("Hey.", "Warm three.", "Plain three.", ["rejected", "rejected"]), ("Same.", "It is.", " It is. ", []),
         ("Empty.", "Something.", " ", [])),
    tree("t3", ("Salut.", "Chaud.", "Froid.", [None]), language="fr"),
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Trees and the conversations of two arms, which are the same until the second reply of case c1, the first of c2."""
    write_jsonl(tmp_path / "trees.jsonl", TREES)
    said = {"ours": ["Yes.", "Indeed.", "Ours."], "base": ["Yes.", "Why?", "Base."]}
    for arm, replies in said.items():
        turns = [{"turn": k, "user": f"Message {k}.", "reply": r, "outcome": "ok"} for k, r in enumerate(replies, 1)]
        other = [{**t, "user": f"{t['user']} {arm}"} for t in turns]
        rows = [{"id": i, "profile": i, "items": [i], "turns": t} for i, t in (("c1", turns), ("c2", other))]
        write_jsonl(tmp_path / f"conversations/{arm}.jsonl", rows)
        judged = [{"id": "c1", "turn": k, "judge": "j", "persona": "right", "score": 3 + (arm == "ours")} for k in (1, 2)]
        wrong = {**judged[1], "persona": "wrong", "score": 1 if arm == "ours" else 5}
        write_jsonl(tmp_path / f"judgements/{arm}.jsonl", [*judged, wrong, {**wrong, "judge": "k", "persona": "right"}])
    return tmp_path


def test_replies_of_a_tree_with_what_the_verifier_chose(data):
    found = {p.place.split(": ")[1]: p for p in survey.of_trees(data / "trees.jsonl", "en")}
    assert set(found) == {"t1 u", "t1 u/p/u", "t2 u", "t2 u/p/u", "t2 u/p/u/p/u"}
    second = found["t1 u/p/u"]
    assert [m["content"] for m in second.history] == ["Hello.", "Warm one.", "Tell me more."]
    assert [found[f"{t} u"].machine for t in ("t1", "t2")] == [("verifier", 1.0), ("verifier", 0.0)]
    assert second.machine == ("verifier", 0.5) and found["t2 u/p/u"].machine == ("verifier", None)
    (french,) = (p for p in survey.of_trees(data / "trees.jsonl", "fr") if p.profile == "profile of t3")
    assert french.replies == ("Chaud.", "Froid.") and french.machine == ("verifier", None)


def test_arms_are_compared_only_after_the_same_history(data):
    first, second = survey.of_arms(data, ("ours", "base"))
    assert [m["content"] for m in second.history] == ["Message 1.", "Yes.", "Message 2."]
    assert second.replies == ("Indeed.", "Why?") and second.machine == ("judge", 1.0), "by the first judge, right persona"
    (again,) = survey.drawn([first, second], 9, seed=1)
    assert again == second, "the same reply twice asks nothing"


def test_pairs_are_drawn_by_the_seed_comparisons_and_profiles_in_turn(data):
    found = [*survey.of_trees(data / "trees.jsonl", "en"), *survey.of_arms(data, ("ours", "base"))]
    pairs = survey.drawn(found, 3, seed=1)
    assert Counter(p.profile for p in pairs) == {"profile of t1": 1, "profile of t2": 1, "c1": 1}
    assert pairs == survey.drawn(found, 3, seed=1)
    assert len({tuple(p.place for p in survey.drawn(found, 9, seed)) for seed in range(9)}) > 1
    assert len(survey.drawn(found, 9, seed=1)) == 4
    sides = {survey.survey(pairs, seed, False)[1]["pairs"][k]["left"] for seed in range(9)
             for k in survey.survey(pairs, seed, False)[1]["pairs"]}  # fmt: skip
    assert sides == {"preferred", "rejected", "ours", "base"}


def test_page_is_blind_and_texts_stay_texts(data):
    pairs = survey.drawn(list(survey.of_trees(data / "trees.jsonl", "en")), 9, seed=1)
    shown, key = survey.survey(pairs, 1, persona=False)
    html = survey.page(shown)
    (embedded,) = re.findall(r'<script type="application/json" id="survey">(.*?)</script>', html, re.S)
    assert json.loads(embedded) == json.loads(json.dumps(shown))
    for word in ("preferred", "rejected", "verifier", "profile", "item of", "trees.jsonl", "t1"):
        assert word not in embedded
    assert html.lower().count("</script") == html.lower().count("<script") == 2 and "<!--" not in html
    assert "default-src 'none'" in html and "unsafe" not in html and "//" not in re.sub(r"//\s.*", "", html)
    for p, one in zip(pairs, shown["pairs"], strict=True):
        left = key["pairs"][one["id"]]["left"]
        assert one["replies"][0] == p.replies[p.names.index(left)], "the key tells which is which"
    with_persona, _ = survey.survey(pairs, 1, persona=True)
    assert [p["persona"] for p in with_persona["pairs"]] == [p.persona for p in pairs]


def test_command(data, project):
    words = ["stages.tools.survey", "--trees", f"{data}/trees.jsonl"]
    done = project._run([*words, "--data", str(data), "--arms", "ours", "base", "--pairs", "3"], check=True)
    assert "2 pairs preferred - rejected" in done.stdout and "1 pairs ours - base" in done.stdout
    (first,) = (project.folder / "results/survey").glob("key-*.json")
    key = json.loads(first.read_text())
    project._run([*words, "--seed", "2"], check=True)
    assert len(list(first.parent.glob("key-*.json"))) == 2, "the first page's key is kept"
    answers = {"survey": key["id"], "rater": "ann", "answers": dict.fromkeys(key["pairs"], 1)}
    (project.folder / "ann.json").write_text(json.dumps(answers))
    assert f"Survey {key['id']}" in project._run(["stages.tools.recompute", "ann.json"], check=True).stdout
    (project.folder / "ann.json").write_text(json.dumps({**answers, "survey": "other"}))
    complains(project._run(["stages.tools.recompute", "ann.json"], check=False), "key-other.json", "give --key")
    write_jsonl(data / "trees.jsonl", [{**t, "language": "en"} for t in TREES])
    complains(project._run([*words, "--language", "xx"], check=False), "trees.jsonl", "language xx")


# ---- in a browser ----


@pytest.fixture
def opened(chrome, data):
    """The page in the browser and its pairs."""
    pairs = survey.drawn([*survey.of_trees(data / "trees.jsonl", "en"), *survey.of_arms(data, ("ours", "base"))], 9, 1)
    shown, key = survey.survey(pairs, 1, persona=True)
    (data / "survey.html").write_text(survey.page(shown))
    (data / "key.json").write_text(json.dumps(key))
    chrome.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(data)})
    yield chrome, (data / "survey.html").as_uri(), shown["pairs"]
    assert not [e["message"] for e in chrome.get_log("browser") if e["level"] == "SEVERE"]


def resized(chrome, width, url):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get(url)


def boxes(chrome):
    return chrome.execute_script("return [...document.querySelectorAll('.reply')].map(e => e.getBoundingClientRect())")


def text(chrome, css):
    return chrome.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", css)


@pytest.mark.slow
def test_answered_by_keys_left_and_gone_on_with_and_saved(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    chrome, url, pairs = opened
    folder = Path(unquote(urlparse(url).path)).parent

    def press(*keys):
        for key in keys:
            ActionChains(chrome, duration=0).send_keys(key).perform()

    resized(chrome, 1280, url)
    chrome.find_element("id", "rater").send_keys("Ann O'Hara", Keys.ENTER)
    first = [box.split("\n", 1)[1].strip() for box in text(chrome, ".reply")]
    assert first == [r.strip() for r in pairs[0]["replies"]] and text(chrome, "#persona li") == pairs[0]["persona"]
    assert len(text(chrome, ".turn")) == len(pairs[0]["history"])
    left, right = boxes(chrome)
    assert left["top"] == right["top"] and left["right"] <= right["left"], "side by side"
    press("1", "3", "2", Keys.BACKSPACE)
    assert text(chrome, "#count") == ["2 of 4"] and text(chrome, ".reply.chosen h2") == ["Reply 2"]
    press("0")
    resized(chrome, 1280, url)
    assert chrome.find_element("id", "rater").get_property("value") == "Ann O'Hara"
    chrome.find_element("id", "begin").click()
    assert text(chrome, "#count") == ["3 of 4"], "it goes on where it was left"
    press("2", "1")
    assert text(chrome, "#done") == ["Thank you, that was all"]
    chrome.find_element("id", "save").click()
    saved, end = folder / "survey-Ann-O-Hara.json", time.monotonic() + 10
    while not saved.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    _, (one,) = people.read(folder / "key.json", [saved])
    assert [one.answers[p["id"]] for p in pairs] == [1, 0, 2, 1]
    assert json.loads(chrome.find_element("id", "result").get_property("value")) == json.loads(saved.read_text())
    resized(chrome, 1280, url)
    chrome.find_element("id", "rater").clear()
    chrome.find_element("id", "rater").send_keys("Ben", Keys.ENTER)
    assert text(chrome, "#count") == ["1 of 4"], "another rater on the same device begins anew"
    assert chrome.execute_script("return window.hacked") is None


@pytest.mark.slow
def test_on_a_phone_everything_fits_the_width_and_is_tapped(opened):
    chrome, url, pairs = opened
    resized(chrome, 360, url)
    chrome.execute_script("localStorage.clear()")
    chrome.get(url)
    chrome.find_element("id", "begin").click()
    for choice in (2, 0, 1):
        first, second = boxes(chrome)
        assert second["top"] > first["bottom"], "one below the other"
        assert chrome.execute_script("return document.documentElement.scrollWidth") <= 360
        button = chrome.find_element("css selector", f"[data-answer='{choice}']")
        assert button.rect["height"] >= 44 and button.rect["y"] + button.rect["height"] <= 800
        button.click()
    chrome.find_element("id", "stop").click()
    assert text(chrome, "#done") == ["1 of 4 are not answered yet"]
    found = json.loads(chrome.find_element("id", "result").get_property("value"))
    assert [found["answers"].get(p["id"]) for p in pairs] == [2, 0, 1, None] and found["rater"].startswith("anonymous-")
