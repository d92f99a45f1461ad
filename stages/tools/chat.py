"""Chat: talk to one or more models in the terminal; each answers every message and sees its own replies only.

They are asked as in the evaluation: section `converse` and the assistant's prompt. `/reset` starts anew, `/quit` ends.

Run: python -m stages.tools.chat --system-prompt prompts/assistant.txt models/dpo models/base
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from stages.core import params, prompts
from stages.core.cli import UserError, one_line, parser, run
from stages.core.files import seed_of
from stages.core.prompts import Message
from stages.dialogue.settings import Converse
from stages.llm import local
from stages.llm.settings import Llm
from stages.weights import control_tokens


class Params(params.Section):
    """Sections read: those of converse."""

    converse: Converse
    llm: Llm


class Talk:
    """One model's side: its server and the conversation as it saw it."""

    def __init__(self, folder: Path, system: list[Message], settings: Llm):
        from openai import DefaultHttpxClient, OpenAI

        e = settings.embedded
        self.folder, self.system = folder, system
        self.engine = local.start(folder, slots=1, context=e.context, threads=e.threads)
        http = DefaultHttpxClient(trust_env=False)  # loopback, whatever HTTP_PROXY says
        self._client = OpenAI(base_url=self.engine.url, api_key=self.engine.key, max_retries=0, http_client=http)
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.said = list(self.system)

    def reply(self, message: str, how: Converse, seed: int) -> Iterator[str]:
        """The reply, piece by piece; once it is whole, it belongs to the conversation."""
        asked = [*self.said, {"role": "user", "content": message}]
        pieces: list[str] = []
        stream: Any = self._client.chat.completions.create(
            model=self.engine.model, messages=control_tokens.escaped(asked, self.folder), stream=True, seed=seed,
            temperature=how.temp, top_p=how.top_p, frequency_penalty=how.penalty, max_tokens=how.tokens,
            stop=["\n"],
        )  # fmt: skip
        for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                pieces.append(piece)
                yield piece
        self.said = [*asked, {"role": "assistant", "content": "".join(pieces).strip()}]


def chat(talks: list[Talk], how: Converse) -> None:
    """Read messages and print the replies until the end of the input."""
    from openai import OpenAIError

    turn = 0
    while True:
        message = input("\nyou> ").strip()
        if not sys.stdin.isatty():
            print(message)  # what a terminal would show by itself
        if message == "/quit":
            return
        if message == "/reset":
            turn = 0
            for talk in talks:
                talk.reset()
            print("(a new conversation)")
        elif message.startswith("/"):
            print("commands: /reset starts anew, /quit ends")
        elif message:
            turn += 1
            for talk in talks:
                print(f"{talk.folder.name}> ", end="", flush=True)
                try:
                    for piece in talk.reply(message, how, seed_of(how.seed, turn, "chat")):
                        print(piece, end="", flush=True)
                    print()
                except OpenAIError as e:
                    print(f"(no reply: {one_line(e)}; /reset starts anew)")


def main() -> None:
    p = parser(__doc__, ["system-prompt"])
    p.add_argument("models", type=Path, nargs="+", metavar="FOLDER", help="read")
    a = p.parse_args()
    settings = params.load("converse", Params)
    system = prompts.load(a.system_prompt).messages()
    for folder in a.models:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; `dvc repro` makes the models, `dvc checkout` brings back made ones")
    with ExitStack() as stack, suppress(EOFError, KeyboardInterrupt):  # Ctrl-D, Ctrl-C
        talks = []
        for folder in a.models:
            talks.append(Talk(folder, system, settings.llm))
            stack.callback(talks[-1].engine.stop)
        chat(talks, settings.converse)
    print()


if __name__ == "__main__":
    run(main)
