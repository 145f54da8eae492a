"""A client of another language: OpenAI's for JavaScript, from the npm registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runtime.server.serving import Server

PROGRAM = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const messages = [{ role: "user", content: "Hello there" }];
const asked = { model: "tiny", messages, max_tokens: 12 };
const whole = (await client.chat.completions.create(asked)).choices[0].message.content;
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? "";
}
const cut = await client.chat.completions.create({ ...asked, max_tokens: 400, stream: true });
for await (const chunk of cut) break;
const properties = { age: { enum: [1, 2] } };
const schema = { type: "object", properties, required: ["age"], additionalProperties: false };
const form = { type: "json_schema", json_schema: { name: "x", schema } };
const formed = await client.chat.completions.create({ ...asked, max_tokens: 60, response_format: form });
const json = formed.choices[0].message.content;
const tools = [{ type: "function", function: { name: "f", parameters: schema } }];
const calling = { model: "tools", messages, max_tokens: 90, tools, tool_choice: "required" };
const called = await client.chat.completions.create(calling);
let refused = "";
try { await client.chat.completions.create({ ...asked, n: 2 }); } catch (error) { refused = error.param; }
console.log(JSON.stringify({ whole, streamed, json, call: called.choices[0].message.tool_calls[0].function, refused }));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm here")
def test_the_javascript_client_does_what_the_python_client_does(server: Server, tmp_path: Path) -> None:
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai"]
    if subprocess.run(install, cwd=tmp_path, check=False).returncode:
        pytest.skip("the client cannot be installed here")
    (tmp_path / "client.mjs").write_text(PROGRAM)
    done = subprocess.run(
        ["node", "client.mjs", server.url], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["streamed"] == found["whole"] != ""
    assert json.loads(found["json"])["age"] in (1, 2)
    assert found["call"]["name"] == "f"
    assert json.loads(found["call"]["arguments"])["age"] in (1, 2)
    assert found["refused"] == "n"
