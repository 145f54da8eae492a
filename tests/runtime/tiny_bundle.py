"""A bundle of random two-layer models that opens in milliseconds: one token per printable character.

The target is in fp32. Drafter "near" has the same weights in int4, so it is often right; "far" has others and is not.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from export.bundle_files import sha256_of
from export.manifest import (
    FileEntry,
    Level,
    Manifest,
    ModelShape,
    Quantization,
    Role,
    Source,
    Vocabulary,
    write_manifest,
)
from tests.runtime.tiny_graph import HEADS, HIDDEN, KV_HEADS, MLP, POSITIONS, SIZE, VOCAB, write_tiny_graph

END = VOCAB - 1
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}"
    "{% endif %}[{{ m.role }}] {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def write_tiny_bundle(
    folder: Path, *, template: bool = True, drafters: bool = True, chat_template: str = TEMPLATE
) -> Path:
    """Writes the bundle to ``folder``."""
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    if template:
        (folder / "chat_template.jinja").write_text(chat_template)
    levels = [_write_level(folder, "tiny", "target", ".", 0, 32)]
    if drafters:
        levels.append(_write_level(folder, "near", "drafter", "drafters/near", 0, 4))
        levels.append(_write_level(folder, "far", "drafter", "drafters/far", 1, 32))
    files = {
        str(path.relative_to(folder)): FileEntry(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_manifest(folder, Manifest("tiny", tuple(levels), files, {"pocketspec": "test"}))
    return folder


def write_foreign_bundle(folder: Path) -> Path:
    """The same target as another builder writes it."""
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    write_tiny_graph(folder / "model.onnx", foreign=True)
    decoder = {
        "filename": "model.onnx",
        "num_hidden_layers": 2,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_size": SIZE,
    }
    model = {"type": "llama", "vocab_size": VOCAB, "context_length": POSITIONS, "eos_token_id": END, "decoder": decoder}
    (folder / "genai_config.json").write_text(json.dumps({"model": model}))
    return folder


def write_tokenizer(folder: Path) -> None:
    """Printable ASCII, one token each, and an end token."""
    characters = [chr(code) for code in range(32, 127)]
    spelled = ["Ġ", *characters[1:]]
    inner = Tokenizer(models.BPE({token: index for index, token in enumerate(spelled)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|end|>"])
    inner.save(str(folder / "tokenizer.json"))


def _write_level(folder: Path, name: str, role: Role, place: str, seed: int, bits: int) -> Level:
    (folder / place).mkdir(parents=True, exist_ok=True)
    graph = write_tiny_graph(folder / place / "model.onnx", bits=bits, seed=seed)
    return Level(
        name=name,
        role=role,
        folder=place,
        architecture="tiny",
        source=Source(name, kind="random-weights"),
        shape=ModelShape(2, HIDDEN, MLP, HEADS, KV_HEADS, SIZE, VOCAB, POSITIONS),
        vocabulary=Vocabulary(VOCAB, "0" * 64, (END,)),
        quantization=Quantization("int4", 32, "rtn", 0.1) if bits == 4 else Quantization("fp32"),
        graphs={"fp32": "model.onnx"},
        weight_bytes=graph.stat().st_size,
    )
