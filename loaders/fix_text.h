/* fix_text.h: ftfy 6.3.1's fix_text() with its default settings, but for the repair of mojibake.
 *
 * Line by line, each line until nothing changes any more: HTML entities (not from the first line on that holds a '<'),
 * C1 control characters as Windows-1252 reads them, Latin ligatures, full- and half-width forms, curly quotes, line
 * breaks, terminal escapes, control characters, NFC. Source: ftfy/__init__.py (fix_text, fix_and_explain),
 * ftfy/fixes.py, ftfy/chardata.py; html.unescape of Python for numeric entities.
 *
 * Left out: fix_encoding (text decoded with the wrong encoding and its helpers restore_byte_a0,
 * replace_lossy_sequences, decode_inconsistent_utf8). Texts that it would change, such as "sÃ³" for "só", stay as they
 * are; a list with both results is tests/unit/data/clip_mojibake.jsonl. Surrogates cannot occur: texts are valid UTF-8.
 */
#ifndef DL_FIX_TEXT_H
#define DL_FIX_TEXT_H

#include "loaders/text_clean.h"

/* In place. Fails when memory is out, and for a text whose entities are nested so deep that it would take more than
 * twenty million character steps. */
int fix_text(struct text_u32 *t, struct dl_err *e);

#endif
