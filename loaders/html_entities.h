/* html_entities.h: the named character references of HTML 5 that end in a semicolon (those of at most 24 letters and
 * digits: ftfy's pattern takes no longer ones). Table made by tools/ref/tokens_clip.py from Python's html.entities. */
#ifndef DL_HTML_ENTITIES_H
#define DL_HTML_ENTITIES_H

/* The text (UTF-8) of the entity named by the n bytes at `name`, without '&' and ';'; NULL when there is none. */
const char *html_entity(const char *name, int n);

#endif
