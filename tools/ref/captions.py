"""Reference data of IF's caption cleaning: what diffusers' IFPipeline._text_preprocessing makes of many texts.

    captions.py texts     tests/unit/data/caption_texts.jsonl: texts made for its rules
    captions.py clean     caption_clean.txt: for each text, a hash of the result with and without cleaning;
                          caption_mojibake.jsonl: texts that only ftfy's repair of mojibake changes

Texts are those of clip_tokens.jsonl (field s, repeated n times) and of caption_texts.jsonl. A line of caption_clean.txt
is "CLEAN LOWER": FNV-1a (64 bit) over the UTF-8 of both results; "-" for a text that is in caption_mojibake.jsonl (s,
and "repaired": the reference's result; "unrepaired": that without ftfy's fix_encoding), "!" for one that Beautiful
Soup refuses. Needs Python 3.11.7, diffusers 0.42.1, beautifulsoup4 4.15.0, ftfy 6.3.1.
"""
import json
import os
import random
import sys
import warnings

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "unit", "data")
PIECES = ["a photo of a cat", "Dog", "the", "woman", " ", " ", " ", " ", "  ", "\t", "\n", "\\n", ",", ".", ":", ";",
          " : ", " . ", "-", "_", "--", "—", "–", "'", "\"", "''", "“", "”", "‘", "’", "«", "`", "!", "?", "(", ")",
          "[", "]", "{", "}", "|", "\\", "/", "*", "#", "#12", "#1234", "#12345", "&", "@nick", "~", "½", "®", "+",
          "%20", "%C3%A9", "%ff", "%E2%82", "%", "%2", "%zz", "é%41", "http://a.com/x?y=1", "https://", "www:x",
          "www.example.org/a-b", "mail@site.com", "x.co", "a.it@", "site.net/", "foo.ru!", "<person>", "<b>", "</b>",
          "<br>", "<br/>", "</br>", "<p class=\"x\">", "<p class='a>b'>", "<script>", "</script>", "<style>",
          "</style>", "<rt>", "</rt>", "<ruby>", "</ruby>", "<pre>", "</pre>", "<!--", "-->", "<!-- c -->",
          "<!doctype html>", "<!x>", "<?php", "?>", "<![cdata[x]]>", "<![if y]>", "<![endif]>", "<", ">", "< ", "</",
          "</>", "</ b>", "<a href=x", "<a/b>", "<a =x>", "<1", "<3", "<lora:x:0.8>", "<é>", "&amp;", "&amp",
          "&quot;", "&quot", "&lt;b&gt;", "&#39;", "&#x41;", "&#65", "&#12a;", "&#", "&nbsp;", "&eacute", "&eacutex",
          "&notit;", "&foo;", "&foo", "&amp;amp;amp;lt;", "&a.b", "&a-", "&A", "&copy 1", "&#128;", "&#0;",
          "&#1114112;", "&#x1;", "192.168.0.1", "1:23 ", "12:345", "123456", "12345", "1234567 ", "img_01.jpg",
          "x.png.pdf", ".png", "a.b.mp4x", "...", "..", ". ", "jc6640", "jc6640vc", "6640vc231", "ab12cd", "j2d1a2a",
          "4x4", "10.5x3", "2×4", "3х4", "4k", "8K", "3d", "free shipping", "worldwide  free shipping", "download",
          "free download free", "click on here", "click  for x", "png image", "jpg images", "pdf", "page 12",
          "page x", "1,000", "a,b", "x./y", "10/12", "猫", "犬の", "한국", "ﬁ", "ŉ", "Ａ", "é", "E\u0301", "İ", "ΑΣ", "ß",
          "\x1b[31m", "\x1f", "\x85", "\u200b", "\ufeff", "½ cup", "☃", "🐱", "\x00", "１２３４５６", "٣٤", "ª", "²"]


def texts():
    rnd = random.Random(66)
    out = ["", " ", "\"quoted\"", "'a'", "\"a\nb\"", "\"", "\"\"", "-a-", "_a_", ".hidden", ".a b", "a.", "a+", ":a:",
           ";a;", "a\n", "a-\n", "'a'\n", "1:23 \n", "A photo, of a cat.", "a png image of a cat",
           "five-of-a-kind-cards", "a_b_c_d_e", "<" * 300, "&" * 300, "a." * 400, " " * 500, ". " * 300, "\"" * 301,
           "<b>" * 200, "</b>" * 200, "&amp;" * 300, "1" * 400, "ab1" * 200, "1x" * 300, "a.com" * 100, "<a b=" * 100,
           "<!--" * 100, "x.png" * 100, "#" * 200]
    for _ in range(2500):
        out.append("".join(rnd.choice(PIECES) for _ in range(rnd.randint(1, 10))))
    for _ in range(700):
        out.append(" ".join(rnd.choice(PIECES) for _ in range(rnd.randint(2, 8))))
    for _ in range(300):
        out.append("<" + "".join(rnd.choice("ab <>/='\"!-[]?&;# \n") for _ in range(rnd.randint(1, 24))))
    with open(os.path.join(DATA, "caption_texts.jsonl"), "w") as f:
        for s in dict.fromkeys(out):
            f.write(json.dumps({"s": s}, ensure_ascii=False, separators=(",", ":")) + "\n")


def fnv(s):
    h = 0xcbf29ce484222325
    for b in s.encode():
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def load_texts():
    for name in ("clip_tokens.jsonl", "caption_texts.jsonl"):
        # not splitlines: texts hold line separators
        for line in open(os.path.join(DATA, name), newline="\n"):
            o = json.loads(line)
            yield o["s"] * o.get("n", 1)


def clean():
    from bs4.exceptions import ParserRejectedMarkup
    from diffusers.pipelines.deepfloyd_if import pipeline_if as m
    assert m.is_bs4_available() and m.is_ftfy_available()
    warnings.simplefilter("ignore")
    pipe = m.IFPipeline.__new__(m.IFPipeline)
    run = lambda s, on=True: m.IFPipeline._text_preprocessing(pipe, s, clean_caption=on)[0]
    fix = m.ftfy.fix_text
    moji = []
    with open(os.path.join(DATA, "caption_clean.txt"), "w") as f:
        for s in load_texts():
            lower = fnv(run(s, False))
            try:
                whole = run(s)
                m.ftfy.fix_text = lambda t: fix(t, fix_encoding=False)
                plain = run(s)
            except ParserRejectedMarkup:
                f.write("! " + lower + "\n")
                continue
            finally:
                m.ftfy.fix_text = fix
            if whole != plain:
                moji.append(json.dumps({"s": s, "repaired": whole, "unrepaired": plain}, ensure_ascii=False))
            f.write((fnv(plain) if whole == plain else "-") + " " + lower + "\n")
    open(os.path.join(DATA, "caption_mojibake.jsonl"), "w").write("\n".join(moji) + "\n")
    print(len(moji), "differ by mojibake")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
