"""Made-up folders in the formats of the benchmarks that stage external reads; nothing of theirs is in them."""

import csv
import json
from pathlib import Path

LIKES = ("tea", "chess", "rain", "bees", "rust", "salt")


def dump(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def prefeval(folder: Path, topics=("pets", "trips"), rows: int = 3) -> Path:
    """A clone of PrefEval: `rows` items a topic, the right option names what the user likes."""
    root = folder / "benchmark_dataset"
    for t, topic in enumerate(topics):
        about = [
            {"preference": f"I like {LIKES[3 * t + n]}.", "question": f"What of {topic} {n}?", "explanation": "It is hard."}
            for n in range(rows)
        ]
        liked = [LIKES[3 * t + n] for n in range(rows)]
        dump(root / "explicit_preference" / f"{topic}.json", about)
        options = [[f"All of {like}.", "Some of wood.", "None of iron at all.", "Bits of glass."] for like in liked]
        mcq = [
            {**a, "violation_probability": 1.0, "classification_task_options": o}
            for a, o in zip(about, options, strict=True)
        ]
        dump(root / "mcq_options" / f"{topic}.json", mcq)
        choice = [
            {**a, "implicit_query": "Which?", "options": ["x"], "aligned_op": "x",
             "conversation": {"query": "Which?", "assistant_options": "1. It. 2. That.", "user_selection": f"{like} it is.",
                              "assistant_acknowledgment": "Understood."}}
            for a, like in zip(about, liked, strict=True)
        ]  # fmt: skip
        dump(root / "implicit_preference" / "choice-based" / f"{topic}.json", choice)
        talk = [
            {str(k): {"user": f"Turn {k}: {like if k == 10 else 'hm'}", "assistant": f"Reply {k}."} for k in range(11)}
            for like in liked
        ]
        persona = [{**a, "persona": "A cook", "conversation": c} for a, c in zip(about, talk, strict=True)]
        dump(root / "implicit_preference" / "persona-driven" / f"{topic}.json", persona)
    dump(root / "mcq_options" / f"{topics[-1]} copy.json", mcq[:1])
    said = [{"role": role, "content": f"{role} {n}"} for n in range(2) for role in ("user", "assistant")]
    dump(root / "filtered_inter_turns.json", [{"conversation_id": str(n), "conversation": said} for n in range(2)])
    return folder


COLUMNS = (
    "persona_id", "chat_history_32k_link", "chat_history_128k_link", "raw_persona_file", "user_query", "correct_answer",
    "incorrect_answers", "topic_query", "preference", "topic_preference", "conversation_scenario", "pref_type",
    "related_conversation_snippet", "who", "updated", "prev_pref", "sensitive_info",
)  # fmt: skip


def personamem(folder: Path, personas: int = 2, questions: int = 2) -> Path:
    """A copy of PersonaMem-v2's repository: a history file a persona, whose system message states what it likes."""
    rows = []
    for p in range(personas):
        link = {size: f"data/chat_history_{size}/chat_history_{size}_persona{p}.json" for size in ("32k", "128k")}
        snippet = [{"role": "user", "content": f"Fix this: {LIKES[p]} is all."}, {"role": "assistant", "content": "Done."}]
        for size, times in (("32k", 1), ("128k", 4)):
            said = [{"role": "system", "content": f"The persona likes {LIKES[p]}."}, *snippet * times]
            dump(folder / link[size], {"metadata": {"persona_id": p, "total_messages": len(said)}, "chat_history": said})
        for n in range(questions):
            query = {"role": "user", "content": f"What's best, {n}?"}
            rows.append({
                **dict.fromkeys(COLUMNS, ""), "persona_id": str(p), "user_query": str(query) if n else json.dumps(query),
                "chat_history_32k_link": link["32k"], "chat_history_128k_link": link["128k"],
                "correct_answer": f"{LIKES[p]}, of course.", "incorrect_answers": json.dumps(["No.", "It's one.", "Maybe."]),
                "related_conversation_snippet": json.dumps(snippet),
            })  # fmt: skip
    table = folder / "benchmark" / "text" / "benchmark.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder
