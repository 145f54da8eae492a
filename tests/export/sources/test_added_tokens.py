"""A bundle's tokenizer has the added tokens that transformers makes of both files, and spaces as models learnt them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from export.sources.compact_tokenizer import write_compact_tokenizer
from export.sources.vocabulary import VocabularyError
from runtime.text.tokenizer import Tokenizer as Ours

_CHARACTERS = ["Ġ", "Ċ", *(chr(code) for code in range(33, 127))]
_TEXT = "a<|end|> \nb <|end|>c <new>\n d<|end|>\n\n<s> e"
_OFF = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def checkpoint(folder: Path, in_file: dict[str, Any], **config: Any) -> Path:
    """Characters as tokens, and ``<|end|>`` with the flags ``in_file``, beside a configuration."""
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate(_CHARACTERS)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens([AddedToken("<|end|>", **{**_OFF, "special": True, **in_file})])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return folder


def decoder(**flags: bool) -> dict[str, Any]:
    """What a configuration says of ``<|end|>``, and of a token that the file does not have."""
    end, new = len(_CHARACTERS), len(_CHARACTERS) + 1
    entries = {str(end): {"content": "<|end|>", **flags}, str(new): {"content": "<new>", **_OFF, "special": True}}
    return {"added_tokens_decoder": entries}


IN_FILE: list[dict[str, Any]] = [{}, {"rstrip": True}, {"lstrip": True}]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"eos_token": "<|end|>", "bos_token": "<s>"},
    {"additional_special_tokens": ["<new>", "<|end|>"], "pad_token": None},
    {"extra_special_tokens": {"new_token": "<new>"}},
    *(decoder(**{**_OFF, "special": True, flag: True}) for flag in _OFF),
    {**decoder(**_OFF, special=False), "eos_token": "<|end|>"},
    decoder(**_OFF, special=False),
    decoder(rstrip=True),
]


@pytest.mark.parametrize(("in_file", "config"), list(product(IN_FILE, CONFIGS)))
def test_added_tokens_are_those_of_transformers(
    tmp_path: Path, in_file: dict[str, Any], config: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    folder, bundle = checkpoint(tmp_path, in_file, **config), tmp_path / "bundle"
    bundle.mkdir()
    write_compact_tokenizer(folder / "tokenizer.json", bundle / "tokenizer.json", 200)
    ours, theirs = Ours.open(bundle), transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs(_TEXT, add_special_tokens=False)["input_ids"]
    assert ours.encode(_TEXT) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_tokens_beyond_the_models_rows_stay_out(tmp_path: Path) -> None:
    folder, rows = checkpoint(tmp_path, {}, pad_token="[PAD]", eos_token="<|end|>"), len(_CHARACTERS) + 1
    write_compact_tokenizer(folder / "tokenizer.json", tmp_path / "out.json", rows)
    assert max(Tokenizer.from_file(str(tmp_path / "out.json")).encode("a [PAD]<|end|>").ids) == rows - 1


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_damaged_files_are_one_line_that_names_them(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path, {}, pad_token="[PAD]")
    damaged = {"tokenizer.json": '{"model": {"type": "BPE", "vocab": 7}}'}
    (folder / name).write_text(damaged.get(name, "{"))
    with pytest.raises(VocabularyError, match=rf"^[^\n]*{name} [^\n]*download it again$"):
        write_compact_tokenizer(folder / "tokenizer.json", tmp_path / "out.json", 200)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("legacy", [None, True, False])
@pytest.mark.parametrize("kind", ["always", "first", "prepend"])
def test_spaces_behind_special_tokens_are_the_files_own(tmp_path: Path, kind: str, legacy: bool | None) -> None:
    """transformers 5 makes them anew for its class LlamaTokenizer; ``export.sources.added_tokens`` says why."""
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate("▁abc")}, []))
    if kind == "prepend":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    inner.add_special_tokens(["<s>", "</s>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "legacy": legacy}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "bundle").mkdir()
    write_compact_tokenizer(tmp_path / "tokenizer.json", tmp_path / "bundle" / "tokenizer.json", 9)
    tokens = [inner.id_to_token(token) for token in Ours.open(tmp_path / "bundle").encode("<s>a b</s>c")]
    mark = [] if kind == "first" else ["▁"]
    assert tokens == ["<s>", *mark, "a", "▁", "b", "</s>", *mark, "c"]


def test_models_were_trained_on_the_tokens_of_the_file(shared_data: Path) -> None:
    """The opening of a story costs stories260k less in the file's tokens than without a mark behind ``<s>``."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = shared_data / "models" / "stories260k"
    model, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), Ours.open(folder)
    stories = (shared_data / "eval" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")[1:9]

    def nats(tokens: list[int]) -> float:
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)
        return -sum(float(scores[place, token]) for place, token in enumerate(tokens[1:]))

    own = other = 0.0
    for story in stories:
        text = story.strip()[:60]
        own += nats(tokenizer.encode(f"<s>{text}", add_special_tokens=False))
        other += nats([1, *tokenizer.encode_behind(text)])
    assert own < 0.85 * other
