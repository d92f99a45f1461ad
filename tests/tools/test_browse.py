"""The page of `make browse`: what goes into it, and (in headless Chromium, where there is one) that it works."""

import json
import re
import time

import pytest
from conftest import ROOT, complains
from omegaconf import OmegaConf

from stages.core.files import write_jsonl
from stages.tools import browse

pytestmark = pytest.mark.slow

NASTY = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1></script><!--<script>\u2028 &amp; \U0001f600"
PROFILE, PERSONALITY = "I keep bees. I fear dogs.", "I am blunt, and kind."
PERSON = {"id": "aaaa", "profile": PROFILE, "personality": PERSONALITY}
ITEMS = ["I keep bees.", "I fear dogs.", "I am blunt.", "I am kind."]


def user(at, text, item, note, took):
    first = ("preferred", "rejected")
    verdicts = [{"first": f, "chosen": c, "raw": "1" if f == c else "2"} for f, c in zip(first, took, strict=True)]
    return {"id": at, "turn": at.count("u"), "role": "user", "text": text, "item": item, "note": note,
            "inducer": f"wrote {item}", "verdicts": verdicts}  # fmt: skip


def reply(at, text, continues=False):
    role = {"p": "preferred", "r": "rejected"}[at[-1]]
    return {"id": at, "turn": at.count("u"), "role": role, "text": text, "continues": continues}


# both replies carry on at turn 1; the rejected branch ends at turn 2, for want of a third user turn
NODES = [
    user("u", "My bees swarm.", 0, [0], ("preferred", "preferred")),
    reply("u/p", "Call a beekeeper.", True), reply("u/r", "Run away.", True),
    user("u/p/u", "A dog barks at my hives.", 1, [0, 1], ("preferred", "rejected")),
    reply("u/p/u/p", "Fence them."), reply("u/p/u/r", "Buy a cat."),
    user("u/r/u", f"I ran. {NASTY}", 2, [0], ("rejected", "rejected")),
    reply("u/r/u/p", "Good.", True), reply("u/r/u/r", "Good."),
]  # fmt: skip
DECISIONS = [
    {
        "tree": "aaaa",
        "node": "u",
        "chosen": "preferred",
        "reason": "agreed",
        "measures": {"overlap": 0.25, "preferred_words": 3, "rejected_words": 2},
    },
    {"tree": "aaaa", "node": "u/p/u", "chosen": None, "reason": "disagreement", "measures": {"overlap": 0.5}},
    {"tree": "aaaa", "node": "u/r/u", "chosen": None, "reason": "identical", "measures": {}},
]


def fill(folder):
    """A small run under `folder`: 400 profiles, 20 trees (one that branches), one eval persona with two models."""
    others = [{"text": f"I am generated number {n}.", "category": "generated"} for n in range(398)]
    pool = [{"text": PROFILE, "category": "rural"}, {"text": NASTY, "category": NASTY}, *others]
    write_jsonl(folder / "personas/profiles.jsonl", pool)
    write_jsonl(folder / "personas/personalities.jsonl", [{"text": PERSONALITY, "category": "calm"}])
    write_jsonl(folder / "personas/train.jsonl", [PERSON])
    write_jsonl(folder / "personas/eval.jsonl", [{**PERSON, "id": "eeee"}])
    tree = {**PERSON, "items": ITEMS, "nodes": NODES, "ended": [{"id": "u/r/u/p/u", "role": "user", "reason": "truncated"}]}
    plain = [{**PERSON, "id": f"t{n}", "items": ITEMS, "ended": [],
              "nodes": [user("u", f"Question {n}.", 0, [], ("preferred", "preferred")), reply("u/p", "Yes."),
                        reply("u/r", "No.")]} for n in range(19)]  # fmt: skip
    write_jsonl(folder / "trees.jsonl", [*plain, tree])
    write_jsonl(folder / "pairs/decisions.jsonl", DECISIONS)
    for model, said, score in (("base", "Base says.", 2), ("tuned", "Tuned says.", None)):
        turns = [
            {"turn": k, "item": k - 1, "user": f"Message {k}.", "reply": f"{said} {k}", "outcome": "ok"} for k in (1, 2)
        ]
        write_jsonl(folder / f"conversations/{model}.jsonl", [{**PERSON, "id": "eeee", "items": ITEMS, "turns": turns}])
        row = {"id": "eeee", "profile": PROFILE}
        second = {"score": score, "raw": "2" if score else f"no idea {NASTY}", **({} if score else {"reason": "no score"})}
        first = {**row, "turn": 1, "score": 4, "raw": "4"}
        write_jsonl(folder / f"judgements/{model}.jsonl", [first, {**row, "turn": 2, **second}])
    return folder


def made(folder, *trees):
    return browse.page(folder, [*trees], folder / "crossed/groups.jsonl")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browse")
    out = folder / "browse.html"
    out.write_text("".join(made(fill(folder / "data"))))
    return out


def embedded(text):
    """Data blocks by name."""
    return {
        k: json.loads(v) for k, v in re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text, re.S)
    }


def test_data_cannot_leave_its_block(html):
    text = html.read_text()
    blocks = embedded(text)
    assert text.lower().count("</script") == text.lower().count("<script") == len(blocks) + 1
    assert text.count("<!--") == 0 and "\u2028" not in text
    assert blocks["index"]["personas"]["profiles"][1]["text"] == NASTY, "and comes out as it went in"
    assert blocks["trees-1"][-1]["nodes"] == NODES


def test_lone_surrogate_can_be_written(tmp_path):
    folder = tmp_path / "data"
    (folder / "personas").mkdir(parents=True)
    (folder / "personas/profiles.jsonl").write_text('{"text": "\\ud800"}\n')
    "".join(made(folder)).encode()


def test_page_reaches_nowhere(html):
    head, code = html.read_text()[:1000], browse.TEMPLATE.read_text()
    assert "default-src 'none'" in head and "unsafe" not in head
    assert "//" not in re.sub(r"//\s.*", "", code), "no address, comments aside"
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc"):
        assert sink not in code


def test_missing_files_name_their_stage(tmp_path):
    files = embedded("".join(made(tmp_path)))["index"]["files"]
    missing = {f["path"].removeprefix(f"{tmp_path}/"): f["stage"] for f in files if f["rows"] is None}
    rounds = {path: stage for path, stage in browse.STAGES.items() if path.startswith("rounds/")}  # none is no fault
    assert {**missing, **rounds} == {**browse.STAGES, "crossed/groups.jsonl": None} and len(rounds) == 2


def _path(out):
    return out if isinstance(out, str) else next(iter(out))


def test_paths_and_stages_are_those_of_dvc_yaml():
    spec = OmegaConf.to_container(OmegaConf.load(ROOT / "dvc.yaml"), resolve=False)["stages"]
    for path, stage in browse.STAGES.items():
        outs = spec[stage].get("do", spec[stage])["outs"]
        assert {f"data/{path.replace('*', name)}" for name in ("${key}", "${item}")} & {*map(_path, outs)}, path


def test_conversations_join_every_models_judgements(html):
    blocks = embedded(html.read_text())
    assert blocks["index"]["models"] == ["base", "tuned"]
    assert blocks["index"]["cases"][0]["scores"] == {"base": [4, 2], "tuned": [4, None]}
    assert blocks["cases-0"][0]["models"]["tuned"]["turns"][1]["judged"]["reason"] == "no score"


def test_command_writes_the_page_and_names_a_broken_line(project):
    fill(project.folder / "data")
    done = project._run(["stages.tools.browse", "--out", "results/browse.html"], check=True)
    assert "results/browse.html" in done.stdout and (project.folder / "results/browse.html").exists()
    (project.folder / "data/trees.jsonl").write_text("{\n")
    done = project._run(["stages.tools.browse", "--out", "results/browse.html"], check=False)
    complains(done, "data/trees.jsonl:1")
    (project.folder / "data/trees.jsonl").unlink()
    for rows, part in ([{"id": "x"}], "mine.jsonl:1: not a tree"), (None, "mine.jsonl: no such file"):
        if rows:
            write_jsonl(project.folder / "mine.jsonl", rows)
        else:
            (project.folder / "mine.jsonl").unlink()
        command = ["stages.tools.browse", "--out", "results/browse.html", "--trees", "mine.jsonl"]
        complains(project._run(command, check=False), part)


# ---- in a browser ----


class Page:
    """The page in the browser; every look waits until it holds, as the page answers in its own time."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, link="", width=1280):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}{link}")
        self.until("return performance.getEntriesByName('usable').length")
        return self

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def fits(self, width):
        """Nothing is wider than the screen."""
        assert self.js(
            "return [document.documentElement, document.getElementById('detail')].every(e => e.scrollWidth <= arguments[0])",
            width,
        )
        assert not self.js(
            "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.map, .wide'))"
            ".filter(e => e.getBoundingClientRect().right > arguments[0] + 1).map(e => e.outerHTML)", width,
        )  # fmt: skip

    def until(self, code, *arguments):
        end = time.monotonic() + 10
        while not (found := self.js(code, *arguments)):
            assert time.monotonic() < end, (
                f"never: {code} {arguments}; detail: {self.js('return document.body.innerText')[-1500:]}"
            )
            time.sleep(0.02)
        return found

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()
        return self

    def click(self, css):
        from selenium.common.exceptions import StaleElementReferenceException

        try:
            self.until("return document.querySelector(arguments[0])", css).click()
        except StaleElementReferenceException:  # drawn anew between the two
            return self.click(css)
        return self

    def search(self, text):
        self.press("/", text)
        return self

    def shows(self, text, css="#detail"):
        self.until("return document.querySelector(arguments[0])?.innerText.includes(arguments[1])", css, text)
        return self

    def count(self, text):
        self.until("return document.getElementById('count').textContent === arguments[0]", text)
        return self

    def hash(self, text):
        self.until("return location.hash === arguments[0]", text)
        return self

    def select(self, label, value):
        self.js(
            "const s = document.querySelector(`#filters [aria-label='${arguments[0]}']`); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change'))", label, value,
        )  # fmt: skip

    def text(self, css):
        found = self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", css)
        return [re.sub(r"\n+", "\n", text) for text in found]


# ---- notes by quotation, a third reply, a second round, groups ----

SAID = f"Can't, the kids wake at six – and my hives need me. {NASTY}"
FACTS = ["I have two children.", "I keep bees.", "I am curt."]
QUOTED = {"id": "aaaa", "profile": "I have two children.", "personality": "I am curt.", "items": FACTS, "ended": []}
SHOWN = [
    {"item": 0, "quote": "the Kids wake  at six -"},
    {"item": 2, "quote": "“Can’t"},
    {"item": 1, "quote": "six – and my hives"},
]
LATER = [
    {**user("u", SAID, None, [0, 1, 2], ("preferred", "preferred")), "quotes": SHOWN},
    {**reply("u/p", "Sleep while they do, then the hives.", True), "mentions": [{"item": 1, "quote": "the hives"}]},
    reply("u/r", "Buy earplugs."),
    {"id": "u/m", "turn": 1, "role": "misinformed", "text": f"Walk the dog. {NASTY}", "continues": False, "of": "bbbb",
     "note": [1], "verdicts": [{"first": "preferred", "chosen": "misinformed", "raw": "2"}]},
    {**user("u/p/u", "No.", None, [0, 1, 2], ("preferred", "rejected")), "quotes": []},
    reply("u/p/u/p", "Fine."), reply("u/p/u/r", "Why?"),
]  # fmt: skip
GROUP = {
    "group": "g1",
    "kind": "both",
    "message": "What shall I cook?",
    "users": [
        {"id": "x", "persona": "Ann, 30.", "history": [{"role": "user", "content": f"No oven. {NASTY}"}], "reply": "Soup."},
        {"id": "y", "history": [{"role": "user", "content": "I bake."}], "reply": f"Bread. {NASTY}"},
    ],
}


def more(folder):
    """A first round, a second one that also reads a file of trees, and a group that two arms were asked of."""
    for node in LATER:
        for key in ("item", "inducer"):
            node.pop(key, None)  # as role-play with natural users has it
    write_jsonl(folder / "personas/train.jsonl", [PERSON])
    write_jsonl(folder / "trees.jsonl", [{**PERSON, "items": ITEMS, "nodes": NODES, "ended": []}])
    write_jsonl(folder / "pairs/decisions.jsonl", DECISIONS[:1])
    stranger = {"id": "bbbb", "profile": "I run.", "personality": "", "items": ["I run.", "I have a dog."], "nodes": []}
    write_jsonl(
        folder / "rounds/2/trees.jsonl", [{**QUOTED, "nodes": LATER, "ended_by_user": ["u/p/u"]}, {**stranger, "ended": []}]
    )
    write_jsonl(folder / "own/trees.jsonl", [{"id": "cccc", "nodes": [n for n in NODES if n["turn"] == 1]}])
    kept = {"chosen": "preferred", "reason": "agreed", "measures": {"preferred_words": 7, "rejected_words": 2}}
    write_jsonl(
        folder / "rounds/2/decisions.jsonl",
        [
            {"tree": "aaaa", "node": "u", "kind": "uninformed", **kept},
            {"tree": "aaaa", "node": "u", "kind": "misinformed", **kept, "chosen": "rejected"},
            {"tree": "cccc", "node": "u", "kind": "uninformed", **kept},
        ],
    )
    write_jsonl(folder / "crossed/groups.jsonl", [GROUP, {**GROUP, "group": "g2", "kind": "temperament"}])
    told = {"group": "g1", "kind": "both", "users": ["x", "y"], "overlap": {"pair_accuracy": 0.5, "top1": 0.5}}
    for arm, scores, right in (("dpo", [[-9, -5], [-9.5, -4]], 1.0), ("base", [[-9, -4], [-8, -5]], 0.0)):
        row = {**told, "pair_accuracy": right, "top1": right, "log_probs": {"history": scores, "no_history": scores}}
        write_jsonl(folder / f"choices/{arm}.jsonl", [row, {**row, "group": "gone"}])
    return folder


@pytest.fixture(scope="module")
def more_html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("more")
    out = folder / "browse.html"
    out.write_text("".join(made(more(folder / "data"), folder / "data/own")))
    return out


def test_trees_of_rounds_and_files_have_ids_of_their_own(more_html):
    index = embedded(more_html.read_text())
    source = str(more_html.parent / "data/own/trees.jsonl")
    assert {t["id"]: t["source"] for t in index["index"]["trees"]} == {
        "aaaa": "", "2:aaaa": "round 2", "2:bbbb": "round 2", "cccc": source,
    }  # fmt: skip
    found = [(d["tree"], d["round"], d.get("kind"), d["text"]) for d in index["pairs"]]
    assert found[0] == ("aaaa", "", None, "My bees swarm.") and found[3] == ("cccc", "2", "uninformed", "My bees swarm.")
    assert [f[:3] for f in found[1:3]] == [("2:aaaa", "2", "uninformed"), ("2:aaaa", "2", "misinformed")]


def test_same_id_in_another_file(tmp_path):
    for name in ("trees.jsonl", "own/a.jsonl"):
        write_jsonl(tmp_path / name, [{**PERSON, "nodes": []}])
    trees = embedded("".join(made(tmp_path, tmp_path / "own", tmp_path / "trees.jsonl")))["index"]["trees"]
    assert len(trees) == len({t["id"] for t in trees}) == 2 and "/" not in trees[1]["id"]


def test_trees_that_params_name():
    changed = {"more_trees": "b", "groups": "c"}
    params = {"extract_pairs": {"trees": "data/trees.jsonl", "more_trees": "a"}, "rounds": {"2": {"extract_pairs": changed}}}
    assert [*map(str, browse.used_trees(params))] == ["data/trees.jsonl", "a", "b"]


@pytest.fixture
def page(chrome, html):
    yield Page(chrome, html.as_uri())
    complaints = [e["message"] for e in chrome.get_log("browser") if e["level"] == "SEVERE"]
    assert not complaints


@pytest.fixture
def more_page(page, more_html):
    page.url = more_html.as_uri()
    return page


LIT = "return [...document.querySelectorAll('[data-said] .lit')].map(e => e.textContent).join('') === arguments[0]"


def test_note_lights_up_where_the_user_said_it(more_page, chrome):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    more_page.open("#trees/2:aaaa/u/p/u").shows("Turn 2")
    note = more_page.text("[data-node='u/p/u'] .shown")
    assert [re.sub("\n.*", "", line) for line in note] == [f"{fact} turn 1" for fact in FACTS], "and none is new"

    def point(css, at=0):
        ActionChains(chrome, duration=0).move_to_element(chrome.find_elements("css selector", css)[at]).perform()

    point("header h1")
    more_page.until(LIT, "")
    for at, words in enumerate(("the kids wake at six –", "six – and my hives", "Can't")):
        point("[data-node='u/p/u'] .item", at)
        more_page.until(LIT, words)
        shown = "return [...document.querySelectorAll('.proof')].filter(e => e.offsetHeight).map(e => e.innerText)"
        assert [text.replace("\n\n", "\n") for text in more_page.js(shown)] == [f"The user, turn 1\n{SAID}"]
    point("header h1")
    more_page.until(LIT, "")
    more_page.js("document.querySelector('[data-node=\"u/p/u\"] h3 a').focus()")
    more_page.press(Keys.TAB).until(LIT, "the kids wake at six –")  # the words of item 0, of which item 1 has some
    more_page.press(Keys.TAB, Keys.ENTER).hash("#trees/2:aaaa/u")


def test_phone_shows_the_words_of_an_item_and_leads_to_them(more_page):
    more_page.open("#trees/2:aaaa/u/p/u", width=380).fits(380)
    more_page.click("[data-node='u/p/u'] .shown:nth-child(2) .item").until(LIT, "six – and my hives")
    more_page.fits(380)
    more_page.click("[data-node='u/p/u'] .shown:nth-child(2) a").hash("#trees/2:aaaa/u")


def test_third_reply_and_what_was_decided_on_it(more_page):
    more_page.open("#trees/2:aaaa").shows("round 2")
    (first, second), replies = more_page.text(".turn"), ".turn:first-of-type .reply"
    assert more_page.text(f"{replies} h4") == [
        "Preferred reply saw the note", "Rejected reply did not see it", "Misinformed reply saw somebody else's note",
    ]  # fmt: skip
    assert more_page.text(f"{replies} .tag") == [
        "✓ chosen", "↓ continues", "✗ not chosen", "stops here", "✓ chosen", "stops here",
    ]  # fmt: skip
    for part in ("chose misinformed", "against uninformed: agreed", "✓ kept: misinformed chosen against misinformed"):
        assert part in first, part
    assert "Inducer wrote" not in first and "The user ended the conversation with this turn." in second
    more_page.click(f"{replies} summary").shows("I have a dog.", f"{replies}[data-reply=misinformed]")
    more_page.js("document.querySelector('[data-reply=preferred] .item').focus()")
    more_page.until(LIT, "the hives")
    more_page.open("#pairs").shows("✓ misinformed · agreed", "#row-2")
    more_page.select("Against", "misinformed")
    more_page.count("1 of 4 entries").click("#row-0").hash("#pairs/2:aaaa/u/m/round2").shows("Kept: misinformed chosen")
    more_page.open("#pairs/cccc/u/round2").shows("Tree cccc, turn 1").shows("My bees swarm.")


def test_rounds_are_told_apart(more_page):
    more_page.open("#trees").count("4 entries")
    more_page.select("Source", "round 2")
    more_page.count("2 of 4 entries").open("#personas/train/aaaa")
    more_page.click("#detail a[href='#trees/2:aaaa']").shows("Tree 2:aaaa")


def test_groups_show_each_arms_choice(more_page):
    more_page.open("#groups").shows("base 0.00 · dpo 1.00 · What shall I cook?", "#row-0")
    assert more_page.text("#detail .box:not(:last-child) tr") == ["base\t0.00", "dpo\t1.00"]
    more_page.select("Arms", "asked")
    more_page.count("1 of 2 entries").open("#groups/g1/B").shows("User B")
    rows = ["Arm\tA\tB\tpairs right", "base\t✗ B\t✗ A\t0.00", "dpo\t✓ A\t✓ B\t1.00", "shared words alone\t0.50"]
    assert more_page.text("#detail tr") == rows
    assert more_page.text("[data-node=B] .tag") == ["base ✗ A", "dpo ✓ B"]
    more_page.until("return document.querySelector('.turn.now')?.dataset.node === 'B'")
    more_page.click("[data-node=B]").press("k").hash("#groups/g1/A")
    more_page.open("#groups/g2").shows("No arm was asked of this group").search("bake").count("2 entries")


def test_list_is_virtual_and_filters(page):
    from selenium.webdriver.common.keys import Keys

    page.open("#personas").count("403 entries")
    assert 5 < len(page.text(".row")) < 40
    page.press(Keys.END).shows("eeee", ".row.cursor")
    page.select("Category", "=seed")
    page.count("5 of 403 entries")
    page.select("Category", "=generated")
    page.count("398 of 403 entries")
    page.select("Category", "")
    page.select("Split", "eval")
    page.count("3 of 403 entries")
    page.select("Pool", "eval")
    page.count("1 of 403 entries")
    page.click(".row").hash("#personas/eval/eeee")
    page.click("#detail a[href='#conversations/eeee']").shows("Conversations of eeee")


def test_search_finds_what_was_said_and_goes_there(page):
    page.open("#trees").search("DOG hives").count("1 of 20 entries")
    from selenium.webdriver.common.keys import Keys

    page.press(Keys.ENTER).shows("Tree aaaa")
    page.until("return document.querySelector('.turn.now')?.dataset.node === 'u/p/u'")
    assert {"dog", "hives"} <= set(page.text("#detail mark"))
    page.press("/", Keys.ESCAPE).count("20 entries")


def test_tree_shows_each_turn_and_its_branches(page):
    page.open("#trees/aaaa").shows("Turn 2")
    first, second = page.text(".turn")
    for part in (
        "Fact to reveal (item 0)\nI keep bees.", "My bees swarm.", "I keep bees. new", "“wrote 0”", "Call a beekeeper.",
        "Run away.", "rejected shown first: chose preferred answered “2”", "They agree on preferred.",
        "✓ kept: preferred chosen",
    ):  # fmt: skip
        assert part in first, part
    assert "⊘ dropped: disagreement" in second and "each time the reply shown first was taken" in second
    page.click(".turn details summary").shows("words\t3\t2", ".turn").shows("overlap 0.25", ".turn")
    left, right = page.js(
        "return [...document.querySelectorAll('.turn:first-of-type .reply')].map(e => e.getBoundingClientRect())"
    )
    assert left["top"] == right["top"] and left["right"] <= right["left"], "side by side"
    assert page.text(".turn:first-of-type .reply .tag") == ["✓ chosen", "↓ continues", "✗ not chosen", "↓ continues"]
    page.click(".turn .reply[data-reply=rejected] .onward").hash("#trees/aaaa/u/r")
    page.shows("I ran.")
    page.shows("The conversation ended here. The next user turn (after the preferred reply) could not be had: truncated")
    page.click(".map div:nth-child(2) button").hash("#trees/aaaa/u/p")
    page.shows("A dog barks at my hives.")


def test_why_pairs_were_dropped(page):
    page.open("#pairs").shows("dropped: identical")
    page.select("Outcome", "dropped")
    page.count("2 of 3 entries")
    page.select("Order", "-overlap")
    page.shows("disagreement", "#row-0")
    page.click("#row-0").hash("#pairs/aaaa/u/p/u")
    page.shows("the verifier's two answers differ")
    page.click("#detail .head a").hash("#trees/aaaa/u/p/u")
    page.until("return document.querySelector('.turn.now')?.dataset.node === 'u/p/u'")


def test_conversations_side_by_side(page):
    page.open("#conversations/eeee/2").shows("Turn 2")
    base, tuned = page.text("[data-node=turn-2] .model")
    assert "Base says. 2" in base and "2 / 5" in base
    assert "⚠ unscored" in tuned and "no score" in tuned and "no idea <script>" in tuned
    assert page.text("tbody tr") == ["base\t4\t2\t3.00", "tuned\t4\t⚠\t4.00"]


def test_keys_alone_are_enough(page):
    from selenium.webdriver.common.keys import Keys

    page.open("#trees").count("20 entries")
    page.press("j", Keys.ARROW_DOWN, "k").hash("#trees/t1").press(Keys.END, Keys.ENTER).shows("Tree aaaa")
    page.until("return document.activeElement.closest('#detail') !== null && location.hash === '#trees/aaaa'")
    page.until("return document.querySelector('.turn.now')?.dataset.node === 'u'")
    page.press(Keys.ARROW_RIGHT).shows("I ran.")
    page.hash("#trees/aaaa/u/r")
    page.press("j").hash("#trees/aaaa/u/r/u")
    page.press("k", "h").hash("#trees/aaaa/u/p")
    page.press("[").shows("Tree t18")
    page.press(Keys.ESCAPE).until("return document.activeElement.id === 'list'")
    for key, name in ("1", "Personas"), ("3", "Pairs"), ("4", "Conversations"), ("5", "Groups"), ("2", "Trees"):
        page.press(key).shows(name, "nav [aria-current]")
    page.hash("#trees/t18")
    page.press("?").until("return document.getElementById('help').open")
    page.press(Keys.ESCAPE).until("return !document.getElementById('help').open")
    before = page.js("return getComputedStyle(document.body).backgroundColor")
    page.press("t")
    assert page.js("return getComputedStyle(document.body).backgroundColor") != before
    page.press(Keys.TAB, Keys.TAB)
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") != "none", "focus is seen"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_systems_colours(page, chrome, scheme):
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    page.open()
    page.js("localStorage.clear(); delete document.documentElement.dataset.theme")
    red = int(re.findall(r"\d+", page.js("return getComputedStyle(document.body).backgroundColor"))[0])
    assert (red < 60) == (scheme == "dark")


@pytest.mark.parametrize("link", ["#trees/2:aaaa", "#pairs/2:aaaa/u/m/round2", "#groups/g1"])
def test_what_is_new_is_only_text_and_fits_a_phone(more_page, link):
    more_page.open(link, width=380)
    more_page.js("document.querySelectorAll('#detail details').forEach(d => { d.open = true; })")
    more_page.shows("<script>window.hacked=1</script><img src=x onerror=window.hacked=1>").fits(380)
    assert more_page.js("return window.hacked === undefined && !document.querySelector('main img, main script')")


def test_text_is_only_ever_text(page):
    for link in ("#personas/profiles/2", "#trees/aaaa/u/r/u", "#pairs/aaaa/u/r/u", "#conversations/eeee/2"):
        page.open(link).shows("<script>window.hacked=1</script><img src=x onerror=window.hacked=1>")
        assert page.js("return window.hacked === undefined && !document.querySelector('main img, main script')")
    page.open(f"#trees/{NASTY[:8]}").shows("Not found")
    page.open("#personas").search("<img src=x onerror").count("1 of 403 entries")
    assert page.js("return window.hacked === undefined")
    with pytest.raises(Exception, match="TrustedHTML"):
        page.js("document.body.innerHTML = 'x'")
    assert "TrustedHTML" in page.driver.get_log("browser")[-1]["message"]


@pytest.mark.parametrize(
    "link", ["#personas/profiles/2", "#trees", "#trees/aaaa/u/r/u", "#pairs", "#pairs/aaaa/u/p/u", "#conversations/eeee"]
)
def test_fits_a_phone(page, link):
    page.open(link, width=380).fits(380)
    if link.startswith("#trees/"):
        above, below = page.js(
            "return [...document.querySelectorAll('.turn:first-of-type .reply')].map(e => e.getBoundingClientRect())"
        )
        assert above["bottom"] <= below["top"] and above["left"] == below["left"], "replies stack"
        page.click(".back").hash("#trees")
        page.until("return document.getElementById('list').clientHeight > 300 && document.querySelector('.row')")


def test_empty_page_says_what_to_run(page, tmp_path):
    out = tmp_path / "browse.html"
    out.write_text("".join(made(tmp_path / "data")))
    page.url = out.as_uri()
    for tab, stage in (
        ("personas", "filter_personas"),
        ("trees", "roleplay"),
        ("pairs", "extract_pairs"),
        ("conversations", "judge"),
        ("groups", "choose"),
    ):
        page.open(f"#{tab}").shows(f"dvc repro {stage}", "#list")
