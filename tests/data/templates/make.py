#!/usr/bin/env python3
"""Writes golden.json: what transformers renders of conversations.json with each template of a folder.

    pip install transformers==5.23.0 jinja2==3.1.6
    tests/data/templates/make.py models/tokenizers/templates

For each template the start of the sha256 of its source, and for each conversation that of the prompt, or the message that the
template raised. Templates are others' text, so neither they nor what they print is kept here.
"""

import datetime
import hashlib
import json
import pathlib
import sys

import jinja2
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class Friday(datetime.datetime):
    """2026-11-20, 10:30 UTC."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 20, 10, 30, tzinfo=tz)


def main():
    (folder,) = sys.argv[1:]
    chat_template_utils.datetime = Friday
    conversations = json.loads((HERE / "conversations.json").read_text())
    tools = json.loads((HERE / "tools.json").read_text())
    golden = {}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        source = path.read_text()
        golden[path.stem] = {"source": sha256(source)}
        for name, conversation in conversations.items():
            golden[path.stem][name] = render(source, conversation, tools)
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


def render(source, conversation, tools):
    kwargs = TOKENS | conversation.get("kwargs", {})
    try:
        (prompt,), _ = chat_template_utils.render_jinja_template(
            conversations=[json.loads(json.dumps(conversation["messages"]))],
            tools=tools if "tools" in conversation else None,
            chat_template=source,
            add_generation_prompt=conversation["add_generation_prompt"],
            **kwargs,
        )
    except jinja2.TemplateError as error:
        return {"raises": str(error)}
    except Exception as error:
        return {"fails": type(error).__name__}
    return sha256(prompt)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
