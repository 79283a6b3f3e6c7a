"""Reference data for the CLIP tokenizer: loaders/clip_bpe.c, text_clean.c, fix_text.c, html_entities.c.

Two environments, because the two generations of transformers cannot be installed together:
  A  Python 3.11, transformers==5.23.0 (tokenizers 0.23.3), ftfy==6.3.1
  B  Python 3.11, transformers==4.57.6, ftfy==6.3.1, regex==2026.11.15
VOCAB is a folder with OpenAI CLIP's vocab.json and merges.txt.

  python tokens_clip.py entities > loaders/html_entities.c          (any)
  python tokens_clip.py ranges                                      (A, then B: prints the tables of young characters)
  python tokens_clip.py strings strings.json                        (any)
  python tokens_clip.py ids VOCAB strings.json ids5.json            (A)
  python tokens_clip.py ids VOCAB strings.json ids4.json            (B)
  python tokens_clip.py join strings.json ids5.json ids4.json tests/unit/data     (any)
  python tokens_clip.py tiny tests/unit/data/clip_tiny              (any; the small vocabulary, before its own ids)
  python tokens_clip.py tiny_ids tests/unit/data/clip_tiny OUT      (A and B)
"""
import html
import html.entities
import json
import os
import random
import sys
import tempfile

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def c_string(s):
    out = ""
    for b in s.encode("utf-8"):
        out += chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else "\\%03o" % b
    return '"' + out + '"'


def entities():
    # ftfy's pattern takes at most 24 letters and digits
    table = {k[:-1]: v for k, v in html.entities.html5.items() if k.endswith(";") and len(k) <= 25}
    print("/* Made by tools/ref/tokens_clip.py from Python's html.entities.html5; do not edit. */")
    print('#include "loaders/html_entities.h"\n')
    print("#include <stdlib.h>\n#include <string.h>\n")
    longest = max(len(v.encode()) for v in table.values())
    print("struct entity {\n    char name[25];\n    char text[%d];\n};\n" % (longest + 1))
    print("/* clang-format off */")
    print("static const struct entity table[] = { /* sorted by name */")
    line = "   "
    for k, v in sorted(table.items()):
        item = " {%s, %s}," % (c_string(k), c_string(v))
        if len(line) + len(item) > 120:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\n/* clang-format on */\n")
    print("static int compare(const void *key, const void *item)\n{")
    print("    return strcmp(key, ((const struct entity *)item)->name);\n}\n")
    print("const char *html_entity(const char *name, int n)\n{\n    char key[25];")
    print("    if (n < 1 || n >= (int)sizeof key) return NULL;")
    print("    memcpy(key, name, (size_t)n);\n    key[n] = 0;")
    print("    const struct entity *hit = bsearch(key, table, sizeof table / sizeof *table, sizeof *table, compare);")
    print("    return hit ? hit->text : NULL;\n}")


def runs(points):
    out = []
    for p in sorted(points):
        if out and out[-1][1] == p - 1:
            out[-1][1] = p
        else:
            out.append([p, p])
    return " ".join("%x" % a if a == b else "%x-%x" % (a, b) for a, b in out)


def ranges():
    """What the reference knows beyond Unicode 14 (Python 3.11), and the marks that its NFC does not know."""
    import unicodedata
    import regex
    import transformers
    assert unicodedata.unidata_version == "14.0.0"
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    if transformers.__version__.startswith("5"):
        from tokenizers import Regex, normalizers, pre_tokenizers
        split = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
        pieces = lambda s: [x[0] for x in split.pre_tokenize_str(s)]
        lower, nfc = normalizers.Lowercase().normalize_str, normalizers.NFC().normalize_str
        letters = {c for c in points if pieces("a" + chr(c) + "a") == ["a" + chr(c) + "a"]}
        numbers = {c for c in points if len(pieces("a%sa" % chr(c))) == 3 and len(pieces("?%s?" % chr(c))) == 3}
        numbers -= letters
    else:
        lower, nfc = str.lower, lambda s: unicodedata.normalize("NFC", s)
        letters = {c for c in points if regex.fullmatch(r"\p{L}", chr(c))}
        numbers = {c for c in points if regex.fullmatch(r"\p{N}", chr(c))}
    print("letters:", runs({c for c in letters if not unicodedata.category(chr(c)).startswith("L")}))
    print("numbers:", runs({c for c in numbers if not unicodedata.category(chr(c)).startswith("N")}))
    print("lower:", runs({c for c in points if lower(chr(c)) != chr(c).lower()}))
    marks = {c for c in points if regex.fullmatch(r"\P{ccc=0}", chr(c))} - {0x345}
    # U+0345 has the highest combining class, so every known mark moves before it
    known = {c for c in marks if nfc("a\u0345" + chr(c)) != "a\u0345" + chr(c)}
    print("inert:", runs(marks - known))


SUBJECTS = (
    "cat|dog|red car|blue sheep|yellow pickle|green apple|astronaut|teddy bear|giraffe|wine glass|laptop|Eiffel Tower|"
    "Steve Jobs|Barack Obama|Pikachu|Batman|Mona Lisa|Kilimanjaro|boy in a hat|old woman|robot|castle|pineapple|"
    "coral reef|zebra|fire hydrant|broccoli|piano|sword|samurai|unicorn|dragon|toaster|banana|corgi|koala|lighthouse|"
    "steam train|violin|snowman"
).split("|")
PLACES = (
    "on a table|in the snow|under water|at sunset|on Mars|next to a lake|in a city street|in front of a mountain|"
    "in space|inside a museum"
).split("|")
STYLES = (
    "oil painting|watercolor|3D render|pencil sketch|polaroid|pixel art|Studio Ghibli style|by Van Gogh|"
    "trending on ArtStation|8k, highly detailed|f/1.8, 50mm|black & white"
).split("|")
NASTY = [
    "", " ", "\t\n", "!", "!!!", "wow!!!", "?!", "!?!", "a!b!c", "! a", "a cat", "A CAT", "a  cat\n\non\ta mat",
    "  both ends  ",
    "<|startoftext|>", "<|endoftext|>", "<|STARTOFTEXT|>", "<|EndOfText|>", "a<|endoftext|>b", "!<|endoftext|>!",
    "<|endoftext|>!!",
    "<|endoftext|><|startoftext|>", "<|endoftext", "<|endoftext|", "<<|endoftext|>>", ".<|ENDOFTEXT|>.",
    "<|ENDOFTEXT|>!!", "<|endoftext|>\u0338",
    "<|\u017ftartoftext|>", "<|\u017fTARTOFTEXT|>", "'\u017f", "it'\u017f", "'S", "'LL", "'\u212a",
    "&lt;|startoftext|&gt;", "&lt;|endoftext|&gt;x", "<|start\u200doftext|>",
    "it's", "IT'S we'll they've I'd I'm you're can't", "it\u2019s \u201cquoted\u201d \u2018single\u2019",
    "'small 'tis 'rent", "rock'n'roll", "''s '''s !'s", "'ss 'st 'd've",
    "&amp;", "&amp;amp;amp;", "&amp;lt;", "&lt;b&gt;", "<b>&amp;</b>", "&#65;&#x42;&#X43;", "&#0;", "&#128;", "&#129;",
    "&#x110000;", "&#xD800;", "&#1;", "&#59;", "&#x3b;", "&#38;#59;",
    "&#12a;", "&#x;", "&#;", "&;", "&x;", "&AMP;", "&NTILDE;", "&ntilde;", "&nTilde;", "&SZLIG;", "&FFILIG;",
    "&NAPOS;", "&napos;", "&GTCC;", "&notit;", "&not;it", "this&not that", "&hellip;",
    "&nbsp;x", "a&nbsp;b", "&&#97;mp;", "&#38;amp;", "&ApplyFunction;", "&CounterClockwiseContourIntegral;",
    "&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;", "&quot;hi&quot;", "first &amp;\nsecond < &amp;\nthird &amp;", "x<y &amp; z",
    "&ａｍｐ;", "＆amp；", "&amp；", "&#x1f600;", "&#8217;", "&#13;&#10;x", "&#9;x", "&#27;[31mred", "&#x338;", "&gt;\u0338",
    ">\u0338", "=\u0338", "a\u0301", "e\u0301\u0323", "\u0301", "x\u0323\u0307", "x\u0307\u0323",
    "\u1100\u1161\u11a8", "한글", "\u212b\u2126\u212a", "\u0958", "\ufb1d", "ǅǈǋ", "ﬀﬁﬂﬃﬄﬅﬆ", "ŉ", "Ĳĳ", "ＬＯＵＤ　ＮＯＩＳＥＳ",
    "ｱｲｳﾞﾟ", "￣￠￡", "ﾡﾢ", "！", "wow！", "？！",
    "\x00", "a\x00b", "\x01\x02", "\x1b[0m", "\x1b[31;1mred\x1b[0m", "\x1b[31", "\x1b[\u0663m", "\x1b]x", "a\x1cb",
    "a\x1f b", "\x7f", "a\x80b", "a\x85b", "\x91x\x92", "\x93x\x94", "\x81", "\x99", "a\xa0b", "a\xadb",
    "\ufeffbom", "a\ufeffb", "\ufffc", "\ufff9", "\u206a", "\u200b", "a\u200bb", "a\u2028b\u2029c", "a\r\nb\rc", "\r",
    "\r\n", "\r\x01\n", "\x0b", "\x0c", "a\x0bb", "\u180e", "a\u180eb", "\u2060", "\u3000", "\u1680", "\u202f",
    "İ", "İstanbul", "ı", "ΑΣ", "ΑΣ Σ", "ΟΔΥΣΣΕΥΣ", "ΑΣ.", "ΑΣ'Σ", "ΑΣ\u0301", "\u0301Σ", "A.Σ", "A\u00adΣ.B", "Σ",
    "ΑΣ!", "ΑΣ:Α", "ªΣ", "ⅠΣ", "ʰΣ", "1Σ", "ẞ STRASSE ß", "ǰ", "Ω", "K", "ſ",
    "123", "12 34", "½ ² ③", "٣٤", "Ⅷ", "一二", "中文字符", "一只猫坐在垫子上", "日本語のプロンプト", "とても可愛い猫!", "สวัสดี", "नमस्ते", "مرحبا",
    "שלום", "Привет МИР", "Größe ÄÖÜ", "naïve café", "Łódź", "ĀĒĪ", "𝒜𝓫𝕔", "🐱", "🐱🐶", "👩\u200d🚀", "👍🏽", "🇩🇪",
    "❤\ufe0f", "#️⃣",
    "\U0001fae8", "\U0001face", "\U00031350", "\U000105d2\u0307", "\u1c89", "\ua7cb", "\U00010d50", "\U00016ea0",
    "\u0c5c", "\U00010efd", "a\u0345\u0898", "a\u0345\u0301", "\U00011935\U00011930", "\U00016129",
    "...", "..!", "---", "a-b_c", "(cat:1.2), [dog], {x|y}", "a/b\\c", "$100", "50%", "@user #tag",
    "http://example.com/?q=1&amp;r=2", "x^2+y^2", "~`|", "<lora:foo:0.8>", "C++", "a\"b\"c", "``x''", "¿qué?",
    "«guillemets»", "…", "a…b", "—", "–", "•", "™", "©®", "€5", "°C", "¡!", "\ue000", "\U0010ffff", "\ufdd0", "\ufffd",
    "sÃ³", "âœ” No problems", "The Mona Lisa doesnâ€™t have eyebrows.", "cafÃ©", "voilÃ  le travail", "Ã la mode",
    "Ã¼ber", "â€œhiâ€\x9d", "schÃ¶n", "ï»¿x", "Â©", "l’humanitÃ©", "РїСЂРёРІРµС‚", "à¤¨", "ð\x9f\x98\x8a", "fiancÃ©e",
    "Ãƒ", "Å", "IL Y MARQUÃ‰…", "êtes-vous", "\ufffd\ufffd",
]
FRAGMENTS = ["<|endoftext|>", "<|startoftext|>", "<|STARTOFTEXT|>", "<|EndOfText|>", "!", "!!", "?", ".", ",", "'",
    "'s", "'S", "'ll", "n't", "ſ", "\u0338", "\u0301", "\u0323", "İ", "Σ", "ΑΣ", "&amp;", "&lt;", "&#x27;", "&#39;",
             "&quot;", "&", ";", "#", "<", ">", "|", "’", "“", "”", "\x1b[31m", "\x1b[", "\r\n", "\n", "\r", "\u2028",
             " ", "  ", "\t", "\u00a0", "\u200d", "\ufe0f", "👩", "🚀", "🐱", "ﬁ", "Ａ", "！", "１", "ｶﾞ", "cat", "Dog", "a",
             "THE", "on", "7", "2024",
             "½", "一", "猫", "の", "한", "é", "E\u0301", "ß", "-", "_", "/", "(", ")", "\x00", "\x07", "\x85", "\x92",
             "\ufeff", "\u200b", "…", "—", "ŉ", "ǆ"]
BLOCKS = [(0x20, 0x7e), (0xa0, 0xff), (0x100, 0x24f), (0x250, 0x36f), (0x370, 0x3ff), (0x400, 0x52f), (0x530, 0x5ff),
    (0x600, 0x6ff), (0x900, 0x97f), (0xe00, 0xe7f), (0x10a0, 0x11ff), (0x1e00, 0x1fff),
          (0x2000, 0x206f), (0x2070, 0x21ff), (0x2200, 0x23ff), (0x2460, 0x27bf), (0x2c00, 0x2dff), (0x3000, 0x30ff),
          (0x3100, 0x33ff), (0x4e00, 0x9fff), (0xa640, 0xa7ff), (0xac00, 0xd7a3), (0xe000, 0xe0ff), (0xf900, 0xfaff),
          (0xfb00, 0xfdff), (0xfe00, 0xfeff), (0xff00, 0xffef), (0x10000, 0x107ff), (0x10800, 0x11fff), (0x16000,
          0x16fff), (0x1d400, 0x1d7ff), (0x1e000, 0x1efff), (0x1f000, 0x1faff), (0x20000, 0x2a6df), (0x2ebf0, 0x323af),
          (0xe0000, 0xe01ef)]


def strings(out):
    """Objects with s (text), n (times it is repeated) and m (length, when not the model's)."""
    rnd = random.Random(17)
    texts = list(NASTY)
    for _ in range(1500):
        a, b = rnd.sample(SUBJECTS, 2)
        t = rnd.choice(["{a}", "a {a} and a {b}", "a photo of a {a} {p}", "A {a} holding a {b} {p}", "{s} of a {a}",
            "a {a} {p}, {s}", "The {a}'s {b}, {s}", "two {a}s and {n} {b}s {p}", "\"{a}\" written on a {b}",
                        "({a}:{n}.{n}), {b}, {s}, {s2}", "{a}, {b}, {p}, {s}, masterpiece, best quality, (({s2}))",
                        "a {a} that isn't a {b}", "President of {a}?!", "{a} vs. {b} -- {s}"])
        texts.append(t.format(a=a, b=b, p=rnd.choice(PLACES), s=rnd.choice(STYLES), s2=rnd.choice(STYLES),
            n=rnd.randint(2, 12)))
    for _ in range(1200):
        texts.append("".join(rnd.choice(FRAGMENTS) for _ in range(rnd.randint(1, 14))))
    for _ in range(1300):
        lo, hi = rnd.choice(BLOCKS)
        texts.append("".join(rnd.choice(["", "", "", " ", "a", "!"]) + chr(rnd.randint(lo,
            hi)) for _ in range(rnd.randint(1, 12))))
    for _ in range(500):
        texts.append("".join(chr(rnd.choice([c for c in (rnd.randrange(0x20, 0x3100),
            rnd.randrange(0x10ffff)) if not 0xd800 <= c < 0xe000])) for _ in range(rnd.randint(1, 8))))
    for first in list(range(0, 0x3400, 24)) + list(range(0xa480, 0xac00, 24)) + list(range(0xf900, 0x10000,
    24)) + list(range(0x10000, 0x11300, 24)) + list(range(0x1f000, 0x1fb00, 24)):
        texts.append("".join(chr(c) for c in range(first, first + 24)))
    names = sorted(k for k in html.entities.html5 if k.endswith(";"))
    names += [k.upper() for k in names if k == k.lower()]
    for i in range(0, len(names), 25):
        texts.append(" ".join("&" + k for k in names[i:i + 25]))
    items = [{"s": s} for s in dict.fromkeys(texts)]
    for s, n in [("a", 10000), ("cat ", 2500), ("!", 10000), ("ab'S ", 2000), ("e\u0301\u0323", 3333), ("\u0323\u0301",
    5000), ("猫", 10000), ("&amp;", 2000), ("...", 3333), ("7", 10000), (" ", 10000), ("\n", 10000), ("Σ.", 5000), ("<",
    10000), ("<|endoftext|>", 800), ("aA1!", 2500), ("👩\u200d🚀", 3000), ("&", 10000), ("\x1b[", 5000)]:
        items.append({"s": s, "n": n})
        items.append({"s": s, "n": n, "m": 300})
    # long tails without truncation
    items += [{"s": t["s"] + " ", "n": 4, "m": 500} for t in items[:len(NASTY)]]
    json.dump(items, open(out, "w"))


def load(vocab, pad):
    """The tokenizer of Stable Diffusion 1.5 or (pad "!") 2.1."""
    from transformers import CLIPTokenizer
    tok = lambda s: {"content": s, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    with tempfile.TemporaryDirectory() as d:
        for f in ("vocab.json", "merges.txt"):
            os.symlink(os.path.abspath(os.path.join(vocab, f)), os.path.join(d, f))
        json.dump({"bos_token": tok(BOS), "eos_token": tok(EOS), "unk_token": tok(EOS), "pad_token": pad},
            open(os.path.join(d, "special_tokens_map.json"), "w"))
        json.dump({"model_max_length": 77, "pad_token": EOS, "tokenizer_class": "CLIPTokenizer"}, open(os.path.join(d,
            "tokenizer_config.json"), "w"))
        return CLIPTokenizer.from_pretrained(d)


def ids_of(toks, t, n=None):
    return [k(t["s"] * t.get("n", 1), truncation=True, max_length=t.get("m", 77)).input_ids[1:-1] for k in toks]


def ids(vocab, inp, out):
    import transformers
    toks = [load(vocab, EOS), load(vocab, "!")]
    items = json.load(open(inp))
    res = {"ids": [ids_of(toks, t) for t in items]}
    if not transformers.__version__.startswith("5"):
        import ftfy
        for k in toks:
            k.fix_text = lambda s: ftfy.fix_text(s, fix_encoding=False)
        res["unrepaired"] = [ids_of(toks, t) for t in items]
    json.dump(res, open(out, "w"))


def join(inp, five, four, folder):
    """clip_tokens.jsonl: a, b, c, d are the ids between start and end token of hf5 and hf4 with pad <|endoftext|>, of
    hf5 and hf4 with pad "!"; b and c stand only where they differ from a, d where it differs from b.
    clip_mojibake.jsonl has the texts whose ids ftfy's repair of mojibake changes: b, d without the repair, and
    "repaired" with it (pad <|endoftext|>)."""
    items, five, four = json.load(open(inp)), json.load(open(five)), json.load(open(four))
    main, moji = [], []
    for t, h5, h4, un in zip(items, five["ids"], four["ids"], four["unrepaired"]):
        o = {k: t[k] for k in ("s", "n", "m") if k in t}
        b, d = un
        o["a"] = h5[0]
        if b != h5[0]:
            o["b"] = b
        if h5[1] != h5[0]:
            o["c"] = h5[1]
        if d != b:
            o["d"] = d
        if un != h4:
            o["repaired"] = h4[0]
        (moji if un != h4 else main).append(json.dumps(o, separators=(",", ":")))
    for name, lines in (("clip_tokens.jsonl", main), ("clip_mojibake.jsonl", moji)):
        open(os.path.join(folder, name), "w").write("\n".join(lines) + "\n")
        print(name, len(lines))


def tiny(folder):
    """Printable ASCII with and without </w>, a few merges, the special tokens: other bytes are unknown."""
    chars = [chr(c) for c in range(0x21, 0x7f)]
    vocab = chars + [c + "</w>" for c in chars]
    merges = ["a n", "an d</w>", "c a", "ca t</w>", "d o", "do g</w>", "t h", "th e</w>", "' s</w>", "! !</w>",
    "o n</w>", "a a", "aa aa", "aa a</w>", "aa aa</w>", "a a</w>"]
    made = [m.replace(" ", "") for m in merges]
    order = []
    for m, w in zip(merges, made):
        if w not in vocab:
            vocab.append(w)
        order.append(m)
    vocab += [BOS, EOS]
    order = [m for m in order if all(p in vocab for p in m.split(" "))]
    os.makedirs(folder, exist_ok=True)
    json.dump({p: i for i, p in enumerate(vocab)}, open(os.path.join(folder, "vocab.json"), "w"), separators=(",", ":"))
    open(os.path.join(folder, "merges.txt"), "w").write("#version: 0.2\n" + "\n".join(order) + "\n")


TINY = ["", "the cat and the dog", "THE CAT!", "the cat's on!!", "caté cat", "é", "aaaaaaa", "aaaa aaa aa a", "a!b",
    "<|endoftext|>x", "<|EndOfText|>", "an and &amp; &eacute;", "cat " * 40]


def tiny_ids(folder, out):
    toks = [load(folder, EOS), load(folder, "!")]
    json.dump([{"s": s, "ids": ids_of(toks, {"s": s})} for s in TINY], open(out, "w"))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
