"""Reference data of the T5 tokenizer: what transformers' T5Tokenizer makes of many texts.

    tokens_t5.py tiny DIR                 trains DIR/spiece.model, a vocabulary of a few hundred pieces
    tokens_t5.py ids OUT FILE.model...    OUT.txt: a hash of the ids for each text and model, see below

Texts are those of tests/unit/data/clip_tokens.jsonl (field s, repeated n times) and then those of t5_texts.jsonl beside
it, which `tokens_t5.py texts` writes: special tokens, white space, clusters, everything that the normaliser maps.
A line of OUT holds, for each model, the number of ids without "</s>" and padding and FNV-1a (64 bit) over them, each as
four bytes, little endian. Needs transformers 5.23.0, sentencepiece 0.2.3, protobuf.
"""
import json
import os
import random
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "..", "tests", "unit", "data")
PIECES = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_7>", "<extra_id_99>", "<extra_id_100>",
          "<extra_id_07>", "<extra_id_>", "</S>", "<extra_id_1", "＜/s＞", "＜pad＞", "＜unk＞", "＜extra_id_3＞", "<", ">",
          "▁", "▁▁", "_", " ", "  ", "\t", "\n", "\r\n", "\u0085", "\u00a0", "\u2003", "\u3000", "\u1680", "\u200b",
          "\u200d", "\ufeff", "\u00ad", "cat", "Dog", "the", "running", "antidisestablishmentarianism", "7", "2024",
          "Ａ", "ｶﾞ", "ﬁ", "½", "²", "ª", "ŉ", "e\u0301", "e\u0301\u0323", "Ａ\u0301", "ª\u0301", "ª\u200d", "\u0301",
          "İ", "ß", "é", "猫", "の", "한", "각", "👩\u200d🚀", "🐱", "🇩🇪", "क्षि", "नि", "\u0600" + "1", "\x00", "\x01",
          "\x7f", "ﷺ", "㍿", "…", "—", "“", "”", "'s", "n't", "-", ".", ",", "!", "\ue000", "\U0010ffff", "\ufffd",
          "\u2028", "\u2029"]


def texts():
    rnd = random.Random(6)
    out = ["", " ", "\n", "▁", "▁a", " ▁ a", "a▁b▁▁c", "</s>", "</s></s>", "a</s>", " </s> a ",
           "<pad> <unk> x <extra_id_5>y",
           "<unk><unk>", "猫<unk>猫", "猫 猫", "猫犬", "a猫<extra_id_1>犬b", "x" * 300, "猫" * 300, "ab " * 400]
    for _ in range(900):
        out.append("".join(rnd.choice(PIECES) for _ in range(rnd.randint(1, 12))))
    # every character of the first planes once between letters, and once behind letters that the normaliser maps
    chars = [c for c in list(range(0x80, 0x3400)) + list(range(0xa000, 0xac00)) + list(range(0xf900, 0x10000)) +
             list(range(0x1d400, 0x1d800)) + list(range(0x1f100, 0x1f300)) + list(range(0x2f800, 0x2fa20))
             if not 0xd800 <= c < 0xe000]
    for i in range(0, len(chars), 32):
        part = [chr(c) for c in chars[i:i + 32]]
        out.append("a".join(part))
        out.append("".join("ª" + c + "x" for c in part))
    with open(os.path.join(DATA, "t5_texts.jsonl"), "w") as f:
        for s in dict.fromkeys(out):
            f.write(json.dumps({"s": s}, ensure_ascii=False, separators=(",", ":")) + "\n")


def load_texts():
    for name in ("clip_tokens.jsonl", "t5_texts.jsonl"):
        # not splitlines: texts hold line separators
        for line in open(os.path.join(DATA, name), newline="\n"):
            o = json.loads(line)
            yield o["s"] * o.get("n", 1)


def load(model):
    from transformers import T5Tokenizer
    with tempfile.TemporaryDirectory() as d:
        shutil.copy(model, os.path.join(d, "spiece.model"))
        json.dump({"model_max_length": 512, "extra_ids": 100,
                   "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
                   "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)]},
                  open(os.path.join(d, "tokenizer_config.json"), "w"))
        return T5Tokenizer.from_pretrained(d)


def fnv(ids):
    h = 0xcbf29ce484222325
    for i in ids:
        for b in i.to_bytes(4, "little"):
            h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return h


def ids(out, *models):
    toks = [load(m) for m in models]
    with open(out, "w") as f:
        for s in load_texts():
            all_ids = [t(s).input_ids for t in toks]
            assert all(i[-1] == 1 for i in all_ids)
            f.write(" ".join(f"{len(i) - 1} {fnv(i[:-1]):016x}" for i in all_ids) + "\n")


def tiny(folder):
    """Trained on a few sentences with T5's own settings; the normaliser is T5's without most of its table, so that the
    file stays small."""
    import sentencepiece as spm
    rnd = random.Random(5)
    a = ["a", "the", "two", "one small", "every"]
    b = ["cat", "dogs", "painting", "photo", "house", "lighthouse", "café", "boat", "running horse", "mountains", "猫"]
    c = ["on", "in front of", "near", "holding", "without", "of"]
    with tempfile.TemporaryDirectory() as d:
        corpus, rules = os.path.join(d, "c.txt"), os.path.join(d, "r.tsv")
        with open(corpus, "w") as f:
            for _ in range(3000):
                f.write(f"{rnd.choice(a)} {rnd.choice(b)} {rnd.choice(c)} {rnd.choice(a)} {rnd.choice(b)}"
                        f"{rnd.choice(['', '.', ', 4k', '!', ' in 1999'])}\n")
        with open(rules, "w") as f:
            for src, dst in [("Ａ", "A"), ("ª", "a"), ("²", "2"), ("ﬁ", "fi"), ("e\u0301", "é"), ("\t", " "), ("\n", " "),
                             ("\r", " "), ("\u00a0", " "), ("\u3000", " "), ("\u200b", " "), ("\x01", ""), ("…", "..."),
                             ("＜", "<"), ("＞", ">"), ("ﷺ", "صلى الله عليه وسلم")]:
                f.write(" ".join(f"{ord(x):X}" for x in src) + "\t" + " ".join(f"{ord(x):X}" for x in dst) + "\n")
        spm.SentencePieceTrainer.train(input=corpus, model_prefix=os.path.join(d, "spiece"), vocab_size=300,
                                       model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1,
                                       pad_piece="<pad>", normalization_rule_tsv=rules, hard_vocab_limit=False)
        os.makedirs(folder, exist_ok=True)
        shutil.copy(os.path.join(d, "spiece.model"), os.path.join(folder, "spiece.model"))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
