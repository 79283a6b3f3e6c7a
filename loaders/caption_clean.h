/* caption_clean.h: what DeepFloyd IF does to a prompt before it is tokenized (`--clean-caption on|off`).
 *
 * caption_clean() is diffusers 0.42.1's IFPipeline._text_preprocessing(text, clean_caption=True), with Beautiful Soup
 * and ftfy installed: _clean_caption() twice. All of its steps are in, in its order:
 *   percent escapes and '+' decoded; stripped, lower case; <person>; URLs; HTML taken out (html_text.h); @names; CJK
 *   characters from U+31C0 to U+9FFF; dashes to '-', quotes to '"' and '\''; &quot; and &amp; left over; IP addresses;
 *   article ids, "\n" spelled out, #12, #12345, long numbers, file names; runs of quotes, dots and punctuation; with
 * more than three '-' and '_', all of them; ftfy (fix_text.h) and HTML references twice; jc6640 and its like; words of
 * shops and file types, page numbers; sizes (4x4); a space behind , . / ; white space; quotes around all, one sign at
 * either end. Plain English comes out lower-cased, but see MODELS' list of what vanishes in it: brackets, "png",
 * "4k3d", "page 3".
 *
 * What differs: ftfy's repair of mojibake ("sÃ³" for "só"), as in fix_text.h; there is a list in
 * tests/unit/data/caption_mojibake.jsonl. Letters younger than the reference's tables (Python 3.11: Unicode 14) may be
 * told from signs otherwise by a newer PCRE2. HTML that Beautiful Soup refuses ("<![x") is an error here as there.
 * HTML references with capitals that only earlier references spell out are not decoded without a semicolon.
 *
 * caption_lower() is what diffusers does with clean_caption=False, or without those two packages: lower().strip().
 *
 * Source: diffusers pipelines/deepfloyd_if/pipeline_if.py.
 */
#ifndef DL_CAPTION_CLEAN_H
#define DL_CAPTION_CLEAN_H

#include "engine/err.h"

#include <stddef.h>

enum {
    CAPTION_MAX_BYTES = 40000
}; /* longest caption that is cleaned: some steps take quadratic time, as they do in Python */

/* Cleans the `bytes` bytes of UTF-8 at `text`. *out is malloc'd, with a NUL behind it that *out_bytes (may be NULL)
 * does not count. Invalid UTF-8 is an error that names the byte. */
int caption_clean(const char *text, size_t bytes, char **out, size_t *out_bytes, struct dl_err *e);

/* The same with lower case and stripping alone. */
int caption_lower(const char *text, size_t bytes, char **out, size_t *out_bytes, struct dl_err *e);

#endif
