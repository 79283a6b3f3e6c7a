"""A byte-pair vocabulary in CLIP's format in which each word of the caption grammar is one token.

Merges are learned in the ordinary way (most frequent pair first) until every word is whole. Other text falls apart
into bytes and pieces, as with any CLIP tokenizer.
"""
import json
import os
from collections import Counter
from functools import lru_cache

from captions import words

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols():
    """The 256 printable symbols that stand for bytes in GPT-2's and CLIP's vocabularies, in their order."""
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(len(rest))]


def _merge(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


@lru_cache(maxsize=None)
def build():
    """(vocabulary {token: id}, merges [(left, right)])."""
    pieces = {w: list(w[:-1]) + [w[-1] + "</w>"] for w in sorted(set(words()))}
    merges = []
    while any(len(p) > 1 for p in pieces.values()):
        pairs = Counter(pair for p in pieces.values() for pair in zip(p, p[1:]))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {w: _merge(p, best) for w, p in pieces.items()}
    base = byte_symbols()
    tokens = base + [s + "</w>" for s in base] + [a + b for a, b in merges] + [START, END]
    return {t: i for i, t in enumerate(tokens)}, merges


def encode(caption, length):
    """Ids of a caption of the grammar, padded with END to a length."""
    vocabulary, _ = build()
    ids = [vocabulary[w + "</w>"] for w in caption.replace(",", " ,").split()]
    if len(ids) > length - 2:
        raise ValueError(f"caption of {len(ids)} tokens: {caption}")
    return [vocabulary[START]] + ids + [vocabulary[END]] * (length - 1 - len(ids))


def write(folder, length):
    """The four files of a CLIP tokenizer in diffusers layout."""
    vocabulary, merges = build()
    os.makedirs(folder, exist_ok=True)

    def put(name, text):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(text)

    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    put("vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    put("merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    put("special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
        **special,
    }
    put("tokenizer_config.json", json.dumps(config, indent=2) + "\n")
