/* html_text.h: the text of a piece of HTML, as BeautifulSoup(text, "html.parser").text gives it, and html.unescape().
 * For the cleaning of captions (caption_clean.h), which need no more than that of an HTML parser.
 *
 * html_text(): the tokenizer of Python 3.11's html.parser with its recovery from broken markup (what it cannot parse is
 * text, and some of that hides the markup behind it), and what of Beautiful Soup 4.15 decides about text: comments,
 * declarations and processing instructions are no text, nor is what stands in script, style, template, rt or rp; CDATA
 * is; stretches of nothing but ASCII white space become one space or line break, unless in pre or textarea; character
 * references. Later releases of Python 3.11 read comments and end tags by other rules; 3.11.7's are followed.
 *
 * Texts are UTF-8 and in lower case (names are compared as they stand), results malloc'd with a NUL behind them that
 * *out_bytes does not count. Source: html/parser.py, _markupbase.py, html/__init__.py; bs4/builder/_htmlparser.py,
 * bs4/__init__.py, bs4/dammit.py.
 */
#ifndef DL_HTML_TEXT_H
#define DL_HTML_TEXT_H

#include "engine/err.h"

#include <stddef.h>

/* Fails when memory is out, and (DL_EUSAGE) for a marked section of an unknown kind, "<![", which Beautiful Soup does
 * not accept either. */
int html_text(const char *s, size_t bytes, char **out, size_t *out_bytes, struct dl_err *e);

/* Character references to characters, with or without a semicolon. */
int html_unescape(const char *s, size_t bytes, char **out, size_t *out_bytes, struct dl_err *e);

#endif
