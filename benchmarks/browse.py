"""How soon `make browse`'s page is usable with 3,000 trees of 10 turns: makes such data, opens the page in Chromium.

Run: python -m benchmarks.browse [--trees 3000] [--keep FOLDER] (needs chromium, chromium-driver and selenium)
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from selenium import webdriver

from stages.core.files import read_jsonl, write_jsonl
from stages.dialogue import tree
from stages.tools.browse import page

MODELS = ("base", "sft", "dpo", "oracle")


def texts(draw: random.Random, words: list[str], least: int, most: int) -> str:
    """Some words in a row."""
    return " ".join(draw.choices(words, k=draw.randint(least, most))).capitalize() + "."


def make(folder: Path, trees: int, turns: int) -> None:
    """Files of a whole run, of drawn words."""
    draw = random.Random(1)
    words = [w.strip(".") for f in ("profiles", "personalities") for r in read_jsonl(Path(f"data/seeds/{f}.jsonl"))
             for w in r["text"].split()]  # fmt: skip
    words += ["".join(draw.choices("aeioubcdfglmnprst", k=draw.randint(4, 9))) for _ in range(5000)]
    people, grown, decided = [], [], []
    for n in range(trees):
        facts = [texts(draw, words, 7, 12) for _ in range(8)]
        traits = [f"I am {draw.choice(words)}." for _ in range(8)]
        person = {"id": f"{n:012x}", "profile": " ".join(facts), "personality": " ".join(traits)}
        nodes, ended, waiting = [], [], [("u", 1)]
        while waiting:
            at, turn = waiting.pop()
            took = [draw.choice(("preferred", "rejected")) for _ in range(2)]
            text = texts(draw, words, 15, 35)
            nodes.append({
                "id": at, "turn": turn, "role": "user", "text": text, "item": turn - 1,
                "note": [*range(turn)], "quotes": [{"item": turn - 1, "quote": " ".join(text.split()[3:9])}],
                "verdicts": [{"first": f, "chosen": c, "raw": "1" if f == c else "2"}
                             for f, c in zip(("preferred", "rejected"), took, strict=True)],
            })  # fmt: skip
            both = turn < turns and n % 20 == 0 and turn in (2, 5)
            goes = "pr" if both else draw.choice("pr")
            for letter, role in tree.REPLIES.items():
                on = turn < turns and letter in goes
                nodes.append({"id": f"{at}/{letter}", "turn": turn, "role": role, "continues": on,
                              "text": texts(draw, words, 35, 75)})  # fmt: skip
                if on and n % 50 == 0 and turn == 7:
                    ended.append({"id": f"{at}/{letter}/u", "role": "user", "reason": "truncated"})
                elif on:
                    waiting.append((f"{at}/{letter}/u", turn + 1))
            agreed = took[0] == took[1]
            decided.append({
                "tree": person["id"], "node": at, "chosen": took[0] if agreed else None,
                "reason": "agreed" if agreed else draw.choice(("disagreement", "disagreement", "unreadable", "identical")),
                "measures": {f"{role}_{name}": round(draw.random(), 4) for role in ("preferred", "rejected")
                             for name in ("directions", "names_inference", "recited", "repetition", "unrevealed", "words")},
            })  # fmt: skip
        people.append(person)
        nodes.sort(key=lambda x: x["id"])
        grown.append({**person, "items": facts + traits, "nodes": nodes, "ended": ended})
    write_jsonl(folder / "trees.jsonl", grown)
    write_jsonl(folder / "pairs/decisions.jsonl", decided)
    pool = [{"text": p["profile"], "category": "generated"} for p in people]
    held = [dict(p, id=f"e{p['id'][1:]}") for p in people[:100]]
    traits_pool = [{"text": p["personality"], "category": "generated"} for p in people]
    for name, rows in (("profiles", pool), ("personalities", traits_pool), ("train", people), ("eval", held)):
        write_jsonl(folder / f"personas/{name}.jsonl", rows)
    for model in MODELS:
        rows = [{**p, "items": p["profile"].split(". "), "ended": None,
                 "turns": [{"turn": k, "item": (k - 1) % 8, "user": texts(draw, words, 15, 35),
                            "reply": texts(draw, words, 35, 75), "outcome": "ok"} for k in range(1, turns + 1)]}
                for p in held]  # fmt: skip
        write_jsonl(folder / f"conversations/{model}.jsonl", rows)
        judged = [{"id": p["id"], "turn": k, "score": s, "raw": str(s or "It is fine."), "reason": None if s else "no score"}
                  for p in held for k in range(1, turns + 1) for s in [draw.choice((1, 2, 3, 4, 5, None))]]  # fmt: skip
        write_jsonl(folder / f"judgements/{model}.jsonl", judged)


def browser() -> webdriver.Chrome:
    """Debian's Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def measured(chrome: webdriver.Chrome, url: str) -> dict[str, float]:
    """Milliseconds of one opening: from navigation start to the list, to all data read; then a tree and a search."""
    chrome.get("about:blank")
    chrome.get(url)
    usable, whole = chrome.execute_script(
        "return [performance.getEntriesByName('usable')[0].startTime, performance.timing.loadEventEnd - performance.timing"
        ".navigationStart]"
    )
    assert chrome.execute_script("return document.querySelectorAll('.row').length") > 5
    tree = chrome.execute_async_script(
        "const done = arguments[0], start = performance.now();"
        "const wait = () => document.querySelector('.turn') ? done(performance.now() - start) : requestAnimationFrame(wait);"
        "document.querySelectorAll('.row')[3].click(); wait();"
    )
    search = """
        const [text, done] = arguments, start = performance.now(), count = document.getElementById('count');
        const query = document.getElementById('query'), before = count.textContent;
        const wait = () => / of /.test(count.textContent) && count.textContent !== before
          ? done(performance.now() - start) : requestAnimationFrame(wait);
        query.value = text; query.dispatchEvent(new Event('input')); wait();"""
    first = chrome.execute_async_script(search, "goats")
    again = chrome.execute_async_script(search, "goats iguana")
    return {"list usable": usable, "all data read": whole, "tree opened": tree, "first search": first, "next search": again}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trees", type=int, default=3000)
    p.add_argument("--turns", type=int, default=10)
    p.add_argument("--keep", type=Path, help="folder for the data and the page (a temporary one)")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or Path(temporary)
        make(folder, a.trees, a.turns)
        start = time.perf_counter()
        out = (folder / "browse.html").resolve()
        with out.open("w") as f:
            f.writelines(page(folder, [], folder / "crossed/groups.jsonl"))
        took = time.perf_counter() - start
        nodes = sum(len(t["nodes"]) for t in read_jsonl(folder / "trees.jsonl"))
        print(f"{a.trees} trees, {nodes} nodes: {out.stat().st_size / 1e6:.1f} MB, built in {took:.1f} s")
        chrome = browser()
        try:
            runs = [measured(chrome, out.as_uri()) for _ in range(5)]
        finally:
            chrome.quit()
        for name in runs[0]:
            times = [r[name] for r in runs]
            print(f"{name}: median {statistics.median(times):.0f} ms, longest {max(times):.0f} ms")


if __name__ == "__main__":
    main()
