/* text_clean.h: what Hugging Face's CLIP tokenizers do to a text before they split it into words.
 *
 * Two generations differ, and `--text` chooses:
 *   hf5  transformers 5 (tokenizers 0.23): NFC, runs of white space to one space, lower case letter by letter;
 *   hf4  transformers 4.57's slow tokenizer with ftfy 6.3.1: fix_text (see fix_text.h), runs of white space to one
 *        space, stripped at both ends, lower case with Greek final sigma.
 *
 * The references carry their own Unicode tables, older or newer than this machine's utf8proc. Where that shows, the
 * reference is followed: marks that its normaliser does not know yet are inert, and capitals younger than Python 3.11
 * (Unicode 14) are lowered in hf5 only. hf4 means Python 3.11 throughout; other Pythons move with their unicodedata.
 *
 * Texts are arrays of code points here. All functions fail only when memory is out, except where said.
 */
#ifndef DL_TEXT_CLEAN_H
#define DL_TEXT_CLEAN_H

#include "engine/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum text_mode { TEXT_HF5, TEXT_HF4 };

enum { TEXT_MAX_BYTES = 1000000 }; /* longest text accepted */

/* A growing array of code points, owned. All zero is the empty text. */
struct text_u32 {
    int32_t *cp; /* [n] Unicode scalar values */
    int64_t n, cap;
};

void text_free(struct text_u32 *t);

/* Appends one code point. */
int text_push(struct text_u32 *t, int32_t cp, struct dl_err *e);

/* Replaces t by the `bytes` bytes of UTF-8 at s. Invalid UTF-8 (surrogates and overlong forms included) is an error
 * that names the byte; so is a text above TEXT_MAX_BYTES. A NUL is an ordinary character. */
int text_decode(struct text_u32 *t, const char *s, size_t bytes, struct dl_err *e);

/* The text as UTF-8: malloc'd, with a NUL behind it that *bytes does not count. */
int text_encode(const struct text_u32 *t, char **s, size_t *bytes, struct dl_err *e);

/* Normalisation form C with the reference's idea of combining marks. Linear time. */
int text_nfc(struct text_u32 *t, enum text_mode mode, struct dl_err *e);

/* Unicode White_Space, which is what \s means to both references. */
bool text_is_space(int32_t cp);

/* Python's str.lower() (hf4, Python 3.11) or lower case letter by letter (hf5). */
int text_lower(struct text_u32 *t, enum text_mode mode, struct dl_err *e);

/* The whole cleaning of one stretch of text between special tokens, in place. hf4 may also fail as fix_text() does. */
int text_clean(struct text_u32 *t, enum text_mode mode, struct dl_err *e);

#endif
