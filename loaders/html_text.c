#include "loaders/html_text.h"

#include "loaders/html_entities.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* What \s means to Python. */
#define SP "\\x09-\\x0d\\x1c-\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NAME "[a-zA-Z][^\\t\\n\\r\\f />\\x00]*"
#define SLASHES "(?:[" SP "]|/(?!>))*"
#define ATTRIBUTE "(?<=['\"" SP "/])[^" SP "/>][^" SP "/=>]*"
#define VALUE "(?:'[^']*'|\"[^\"]*\"|(?!['\"])[^>" SP "]*)"

/* Regular expressions of html.parser, matched at one place. */
enum { START_TAG, TAG_NAME, ATTRIBUTES, END_TAG, SECTION_NAME, N_PATTERNS };
static const char *const pattern[N_PATTERNS] = {
    [START_TAG] =
        "<" NAME "(?:[" SP "/]*(?:" ATTRIBUTE "(?:[" SP "]*=+[" SP "]*" VALUE "[" SP "]*)?" SLASHES ")*)?[" SP "]*",
    [TAG_NAME] = "(" NAME ")" SLASHES,
    [ATTRIBUTES] = "(?:" ATTRIBUTE "(?:[" SP "]*=+[" SP "]*" VALUE ")?" SLASHES ")*",
    [END_TAG] = "</[" SP "]*([a-zA-Z][-.a-zA-Z0-9:_]*)[" SP "]*>",
    [SECTION_NAME] = "([a-zA-Z][-_.a-zA-Z0-9]*)[" SP "]*",
};

static const char *const empty_tags[] = {
    "area",     "base", "basefont", "bgsound", "br",     "col",     "command", "embed",
    "frame",    "hr",   "image",    "img",     "input",  "isindex", "keygen",  "link",
    "menuitem", "meta", "nextid",   "param",   "source", "spacer",  "track",   "wbr",
};
enum { N_EMPTY = sizeof empty_tags / sizeof *empty_tags };

enum { WORTH_JIT = 2000 }; /* texts above it take longer than compiling the patterns for the machine */

struct bytes {
    char *p; /* [n] */
    size_t n, cap;
};

struct name {
    const char *s; /* [n] in the text */
    size_t n;
};

struct html {
    const char *s; /* [n] */
    size_t n;
    pcre2_code *re[N_PATTERNS];
    pcre2_match_data *match;
    struct name *open; /* [n_open] tags that are open */
    size_t n_open, open_cap;
    int n_hidden, n_preserve; /* how many of them hide their text, keep its white space */
    int closed[N_EMPTY];      /* end tags of empty tags that are to be ignored */
    struct name raw;          /* script or style, inside of one; s NULL otherwise */
    struct bytes data, out;   /* text since the last tag; all text before */
    struct dl_err *e;
};

static int add(struct bytes *b, const char *s, size_t n, struct dl_err *e)
{
    if (b->n + n + 1 > b->cap) {
        size_t cap = (b->n + n) * 3 / 2 + 64;
        char *p = realloc(b->p, cap);
        if (!p) return dl_fail(e, DL_ENOMEM, "no memory for a text of %zu bytes", cap);
        b->p = p;
        b->cap = cap;
    }
    if (n) memcpy(b->p + b->n, s, n);
    b->n += n;
    b->p[b->n] = 0;
    return 0;
}

static int add_char(struct bytes *b, int32_t c, struct dl_err *e)
{
    uint8_t u[4];
    return add(b, (char *)u, (size_t)utf8proc_encode_char(c, u), e);
}

static bool is_name(struct name a, const char *b) { return a.n == strlen(b) && !memcmp(a.s, b, a.n); }

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static bool is_hex_mark(char c) { return c == 'x' || c == 'X'; }

/* The number written at s[n], 0x110000 when it is too large. */
static int32_t read_number(const char *s, size_t n, int base)
{
    int32_t v = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = is_digit(s[i]) ? s[i] - '0' : (s[i] | 32) - 'a' + 10;
        v = v * base + digit;
        if (v > 0x10ffff) return 0x110000;
    }
    return v;
}

/* Windows-1252 for 0x80..0x9f; the five bytes that it leaves undefined keep their code. */
static int32_t from_cp1252(int32_t c)
{
    static const uint16_t table[32] = {0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
                                       0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x008d, 0x017d, 0x008f,
                                       0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
                                       0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178};
    return c >= 0x80 && c <= 0x9f ? table[c - 0x80] : c;
}

/* Entities that count without a semicolon, by themselves and before more letters. */
static const char *legacy_entity(const char *s, size_t n)
{
    static const char *const name[] = {
        "aacute", "acirc", "acute",  "aelig",  "agrave", "amp",    "aring",  "atilde", "auml",  "brvbar",
        "ccedil", "cedil", "cent",   "copy",   "curren", "deg",    "divide", "eacute", "ecirc", "egrave",
        "eth",    "euml",  "frac12", "frac14", "frac34", "gt",     "iacute", "icirc",  "iexcl", "igrave",
        "iquest", "iuml",  "laquo",  "lt",     "macr",   "micro",  "middot", "nbsp",   "not",   "ntilde",
        "oacute", "ocirc", "ograve", "ordf",   "ordm",   "oslash", "otilde", "ouml",   "para",  "plusmn",
        "pound",  "quot",  "raquo",  "reg",    "sect",   "shy",    "sup1",   "sup2",   "sup3",  "szlig",
        "thorn",  "times", "uacute", "ucirc",  "ugrave", "uml",    "uuml",   "yacute", "yen",   "yuml"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        if (strlen(name[i]) == n && !memcmp(name[i], s, n)) return html_entity(s, (int)n);
    return NULL;
}

/* "&#" and digits, at s[n]: how many bytes without the semicolon, 0 when it is none. */
static size_t number_bytes(const char *s, size_t n)
{
    bool hex = n > 2 && is_hex_mark(s[2]);
    size_t first = hex ? 3 : 2, i = first;
    while (i < n && (hex ? is_hex(s[i]) : is_digit(s[i]))) i++;
    return i > first ? i : 0;
}

static int32_t number_value(const char *s, size_t n)
{
    return is_hex_mark(s[2]) ? read_number(s + 3, n - 3, 16) : read_number(s + 2, n - 2, 10);
}

static int unescape_number(struct bytes *out, int32_t v, struct dl_err *e)
{
    if (v == 0 || (v >= 0xd800 && v <= 0xdfff) || v > 0x10ffff) return add_char(out, 0xfffd, e);
    if (v == 0x0d || (v >= 0x80 && v <= 0x9f)) return add_char(out, from_cp1252(v), e);
    if (v < 9 || v == 0x0b || (v >= 0x0e && v < 0x20) || v == 0x7f || (v >= 0xfdd0 && v <= 0xfdef) ||
        (v & 0xfffe) == 0xfffe)
        return 0; /* not allowed in HTML: dropped */
    return add_char(out, v, e);
}

/* A named reference at s[n], which begins with '&': how many bytes were used, -1. */
static int64_t unescape_name(struct bytes *out, const char *s, size_t n, struct dl_err *e)
{
    size_t end = 1;
    for (int count = 0; count < 32 && end < n && !strchr("\t\n\f <&#;", s[end]); count++)
        for (end++; end < n && (s[end] & 0xc0) == 0x80;) end++;
    size_t len = end - 1;
    bool closed = end < n && s[end] == ';' && len;
    const char *text = closed ? html_entity(s + 1, len > 24 ? 0 : (int)len) : legacy_entity(s + 1, len);
    if (text) return add(out, text, strlen(text), e) < 0 ? -1 : (int64_t)(end + closed);
    for (size_t k = closed || !len ? len : len - 1; k > 1; k--)
        if ((text = k > 8 ? NULL : legacy_entity(s + 1, k)))
            return add(out, text, strlen(text), e) < 0 ? -1 : (int64_t)(1 + k);
    return add(out, s, 1, e) < 0 ? -1 : 1;
}

int html_unescape(const char *s, size_t n, char **out, size_t *out_bytes, struct dl_err *e)
{
    struct bytes b = {0};
    if (add(&b, "", 0, e) < 0) return -1;
    for (size_t i = 0; i < n;) {
        const char *amp = memchr(s + i, '&', n - i);
        size_t at = amp ? (size_t)(amp - s) : n, k;
        if (add(&b, s + i, at - i, e) < 0) goto fail;
        i = at;
        if (i == n) break;
        if (i + 1 < n && s[i + 1] == '#') {
            k = number_bytes(s + i, n - i);
            if (k ? unescape_number(&b, number_value(s + i, k), e) < 0 : add(&b, "&", 1, e) < 0) goto fail;
            i += k ? k + (i + k < n && s[i + k] == ';') : 1;
        } else {
            int64_t used = unescape_name(&b, s + i, n - i, e);
            if (used < 0) goto fail;
            i += (size_t)used;
        }
    }
    *out = b.p;
    *out_bytes = b.n;
    return 0;
fail:
    free(b.p);
    return -1;
}

/* Matches a pattern at byte `at`. Returns its end, -1 for no match, -2 for failure. */
static int64_t match_at(struct html *h, int which, size_t at)
{
    int rc = pcre2_match(h->re[which], (PCRE2_SPTR)h->s, h->n, at, PCRE2_NO_UTF_CHECK, h->match, NULL);
    if (rc == PCRE2_ERROR_NOMATCH) return -1;
    if (rc < 0) return dl_fail(h->e, DL_EUSAGE, "caption's HTML is too involved (PCRE2 error %d): shorten it", rc), -2;
    return (int64_t)pcre2_get_ovector_pointer(h->match)[1];
}

/* The first group of the last match. */
static struct name group(const struct html *h)
{
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(h->match);
    return (struct name){h->s + o[2], o[3] - o[2]};
}

/* Where the byte c next stands at or behind `at`, -1. */
static int64_t find(const struct html *h, char c, size_t at)
{
    const char *p = at < h->n ? memchr(h->s + at, c, h->n - at) : NULL;
    return p ? p - h->s : -1;
}

static bool starts(const struct html *h, size_t at, const char *with)
{
    size_t n = strlen(with);
    return h->n - at >= n && !memcmp(h->s + at, with, n);
}

/* Python's isspace() at byte i: how many bytes, 0 for none. */
static size_t space_bytes(const struct html *h, size_t i)
{
    utf8proc_int32_t c;
    if (i >= h->n) return 0;
    utf8proc_ssize_t k = utf8proc_iterate((const uint8_t *)h->s + i, (utf8proc_ssize_t)(h->n - i), &c);
    bool space = (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
                 (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
                 c == 0x3000;
    return space ? (size_t)k : 0;
}

/* The first place from `at` on that reads as `parts` with any white space between its characters; *end behind it. */
static int64_t find_spaced(const struct html *h, const char *parts, size_t at, size_t *end)
{
    for (int64_t i = find(h, parts[0], at); i >= 0; i = find(h, parts[0], (size_t)i + 1)) {
        size_t j = (size_t)i, k;
        const char *p = parts;
        while (*p && j < h->n && h->s[j] == *p) {
            j++;
            p++;
            while (*p && (k = space_bytes(h, j))) j += k;
        }
        if (!*p) return *end = j, i;
    }
    return -1;
}

/* The text since the last tag ends here. */
static int end_data(struct html *h, bool shown)
{
    struct bytes *d = &h->data;
    if (!d->n) return 0;
    bool blank = !h->n_preserve, line = false;
    for (size_t i = 0; i < d->n && blank; i++) {
        blank = d->p[i] && strchr(" \n\t\f\r", d->p[i]);
        line |= d->p[i] == '\n';
    }
    int rc = !shown ? 0 : blank ? add(&h->out, line ? "\n" : " ", 1, h->e) : add(&h->out, d->p, d->n, h->e);
    d->n = 0;
    return rc;
}

static int data(struct html *h, size_t from, size_t to) { return add(&h->data, h->s + from, to - from, h->e); }

static bool hides(struct name t)
{
    return is_name(t, "script") || is_name(t, "style") || is_name(t, "template") || is_name(t, "rt") ||
           is_name(t, "rp");
}

static bool preserves(struct name t) { return is_name(t, "pre") || is_name(t, "textarea"); }

static int empty_tag(struct name t)
{
    for (int i = 0; i < N_EMPTY; i++)
        if (is_name(t, empty_tags[i])) return i;
    return -1;
}

static int open_tag(struct html *h, struct name t)
{
    if (end_data(h, !h->n_hidden) < 0) return -1;
    if (h->n_open == h->open_cap) {
        size_t cap = h->open_cap * 2 + 16;
        struct name *p = realloc(h->open, cap * sizeof *p);
        if (!p) return dl_fail(h->e, DL_ENOMEM, "no memory for %zu tags", cap);
        h->open = p;
        h->open_cap = cap;
    }
    h->open[h->n_open++] = t;
    h->n_hidden += hides(t);
    h->n_preserve += preserves(t);
    return 0;
}

/* Closes the innermost open tag of that name with all inside of it; nothing when there is none. */
static int close_tag(struct html *h, struct name t)
{
    if (end_data(h, !h->n_hidden) < 0) return -1;
    size_t i = h->n_open;
    while (i && !(h->open[i - 1].n == t.n && !memcmp(h->open[i - 1].s, t.s, t.n))) i--;
    while (i && h->n_open >= i) {
        struct name last = h->open[--h->n_open];
        h->n_hidden -= hides(last);
        h->n_preserve -= preserves(last);
    }
    return 0;
}

static int end_tag(struct html *h, struct name t)
{
    int k = empty_tag(t);
    if (k >= 0 && h->closed[k]) return h->closed[k]--, 0;
    return close_tag(h, t);
}

/* The functions below read what begins at byte i and return where to go on, -1 where it is not finished, -2 on failure;
 * places are the reference's. */

static int64_t whole_start_tag(struct html *h, size_t i)
{
    int64_t j = match_at(h, START_TAG, i);
    if (j < 0) return j;
    char next = (size_t)j < h->n ? h->s[j] : 0;
    if ((size_t)j == h->n) return -1;
    if (next == '>') return j + 1;
    if (next == '/') return (size_t)j + 1 < h->n && h->s[j + 1] == '>' ? j + 2 : -1;
    if (is_letter(next) || next == '=') return -1;
    return j;
}

static int64_t start_tag(struct html *h, size_t i)
{
    int64_t end = whole_start_tag(h, i), k;
    if (end < 0) return end;
    if ((k = match_at(h, TAG_NAME, i + 1)) < 0) return -2;
    struct name t = group(h);
    if (k < end && (k = match_at(h, ATTRIBUTES, (size_t)k)) < 0) return -2;
    size_t from = (size_t)k, to = (size_t)end, n;
    while (from < to && (n = space_bytes(h, from))) from += n;
    bool plain = to == from + 1 && h->s[from] == '>', closed = to == from + 2 && !memcmp(h->s + from, "/>", 2);
    if (!plain && !closed) return data(h, i, to) < 0 ? -2 : end;
    int empty = empty_tag(t);
    if (open_tag(h, t) < 0) return -2;
    if (closed || empty >= 0) {
        if (close_tag(h, t) < 0) return -2;
        if (!closed) h->closed[empty]++;
    } else if (is_name(t, "script") || is_name(t, "style")) {
        h->raw = t;
    }
    return end;
}

/* A comment or the like from `from` to `to`: no text, but it ends the text before it. */
static int64_t hidden(struct html *h, int64_t next) { return end_data(h, !h->n_hidden) < 0 ? -2 : next; }

static int64_t bogus_comment(struct html *h, size_t i)
{
    int64_t end = find(h, '>', i + 2);
    return end < 0 ? -1 : hidden(h, end + 1);
}

static int64_t read_end_tag(struct html *h, size_t i)
{
    int64_t gt = find(h, '>', i + 1);
    if (gt < 0) return -1;
    int64_t end = match_at(h, END_TAG, i);
    if (end == -2) return -2;
    if (end < 0) {
        int64_t name_end = match_at(h, TAG_NAME, i + 2);
        if (name_end == -2) return -2;
        if (name_end < 0) return gt == (int64_t)i + 2 ? gt + 1 : bogus_comment(h, i);
        struct name t = group(h);
        gt = find(h, '>', (size_t)name_end);
        return end_tag(h, t) < 0 ? -2 : gt + 1;
    }
    if (end_tag(h, group(h)) < 0) return -2;
    h->raw.s = NULL;
    return gt + 1;
}

static int64_t marked_section(struct html *h, size_t i)
{
    static const char *const kinds[] = {"temp", "cdata", "ignore", "include", "rcdata", "if", "else", "endif"};
    if (i + 3 == h->n) return -1;
    int64_t j = match_at(h, SECTION_NAME, i + 3);
    if (j == -2) return -2;
    if (j == (int64_t)h->n) return -1;
    size_t kind = 0, end = 0;
    if (j > 0)
        while (kind < 8 && !is_name(group(h), kinds[kind])) kind++;
    if (j < 0 || kind == 8)
        return dl_fail(h->e, DL_EUSAGE,
                       "caption has \"<![\" at byte %zu of its cleaned text, which the HTML parser of "
                       "the reference refuses: take it out",
                       i),
               -2;
    int64_t stop = find_spaced(h, kind < 5 ? "]]>" : "]>", i + 3, &end);
    if (stop < 0) return -1;
    if (end_data(h, !h->n_hidden) < 0) return -2;
    if (starts(h, i + 3, "cdata[")) {
        if (data(h, i + 9, (size_t)stop > i + 9 ? (size_t)stop : i + 9) < 0) return -2;
        if (!h->data.n && add(&h->data, " ", 1, h->e) < 0) return -2; /* an empty one counts as white space */
        if (end_data(h, true) < 0) return -2;
    }
    return (int64_t)end;
}

static int64_t declaration(struct html *h, size_t i)
{
    if (starts(h, i, "<![")) return marked_section(h, i);
    if (starts(h, i, "<!doctype")) {
        int64_t end = find(h, '>', i + 9);
        return end < 0 ? -1 : hidden(h, end + 1);
    }
    return bogus_comment(h, i);
}

static int64_t comment(struct html *h, size_t i)
{
    /* "--", then white space, then '>' */
    for (int64_t j = find(h, '-', i + 4); j >= 0; j = find(h, '-', (size_t)j + 1)) {
        size_t k = (size_t)j + 2, n;
        if (!starts(h, (size_t)j, "--")) continue;
        while ((n = space_bytes(h, k))) k += n;
        if (k < h->n && h->s[k] == '>') return hidden(h, (int64_t)k + 1);
    }
    return -1;
}

static int64_t markup(struct html *h, size_t i, bool *nothing)
{
    if (i + 1 < h->n && is_letter(h->s[i + 1])) return start_tag(h, i);
    if (starts(h, i, "</")) return read_end_tag(h, i);
    if (starts(h, i, "<!--")) return comment(h, i);
    if (starts(h, i, "<?")) return bogus_comment(h, i); /* a processing instruction ends like one */
    if (starts(h, i, "<!")) return declaration(h, i);
    if (i + 1 < h->n) return data(h, i, i + 1) < 0 ? -2 : (int64_t)i + 1;
    *nothing = true;
    return -1;
}

/* A named reference; as above, and *stop when reading is to stop here (*at is where it then stands). */
static int reference(struct html *h, size_t i, bool last, size_t *at, bool *stop)
{
    size_t j = i + 1, end;
    *at = i;
    if (j < h->n && is_letter(h->s[j])) {
        while (j < h->n && (is_letter(h->s[j]) || is_digit(h->s[j]) || h->s[j] == '-' || h->s[j] == '.')) j++;
        end = j;
        if (j == h->n) /* something must follow the name: a dash or dot of its own, if nothing else does */
            for (end--; end > i + 1 && h->s[end] != '-' && h->s[end] != '.';) end--;
        if (end > i + 1) {
            size_t n = end - i - 1;
            const char *text = html_entity(h->s + i + 1, n > 24 ? 0 : (int)n);
            *at = end + (h->s[end] == ';');
            return text ? add(&h->data, text, strlen(text), h->e) : data(h, i, end);
        }
        *stop = true;
        if (last && h->n - i == 2) *at = i + 1;
        return 0;
    }
    *stop = i + 1 == h->n;
    if (*stop) return 0;
    *at = i + 1;
    return data(h, i, i + 1);
}

static int number_reference(struct html *h, size_t i, size_t *at, bool *stop)
{
    size_t k = number_bytes(h->s + i, h->n - i);
    /* Something that is no digit, not even a hexadecimal one, must follow. */
    if (k && i + k < h->n && !is_hex(h->s[i + k])) {
        int32_t v = number_value(h->s + i, k);
        *at = i + k + (h->s[i + k] == ';');
        if (v == 0 || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff)) v = 0xfffd;
        return add_char(&h->data, from_cp1252(v), h->e);
    }
    *stop = true;
    *at = i;
    if (find(h, ';', i) < 0) return 0;
    *at = i + 2;
    return data(h, i, i + 2);
}

/* One of the two passes of the parser: the first stops at what may not be finished; `last` takes it as it stands. */
static int pass(struct html *h, size_t *from, bool last)
{
    size_t i = *from;
    bool stop = false;
    while (i < h->n && !stop) {
        size_t j = i;
        if (h->raw.s) {
            int64_t k = -1, end = -1;
            for (k = find(h, '<', i); k >= 0; k = find(h, '<', (size_t)k + 1)) {
                if (!starts(h, (size_t)k, "</")) continue;
                end = match_at(h, END_TAG, (size_t)k);
                if (end == -2) return -1;
                if (end > 0 && group(h).n == h->raw.n && !memcmp(group(h).s, h->raw.s, h->raw.n)) break;
            }
            if (k < 0) break;
            j = (size_t)k;
        } else {
            while (j < h->n && h->s[j] != '<' && h->s[j] != '&') j++;
        }
        if (data(h, i, j) < 0) return -1;
        i = j;
        if (i == h->n) break;
        if (h->s[i] == '<') {
            int64_t k = markup(h, i, &stop);
            if (k == -2) return -1;
            if (stop) break;
            if (k < 0) {
                if (!last) break;
                k = find(h, '>', i + 1) + 1;
                if (!k) k = find(h, '<', i + 1);
                if (k < 0) k = (int64_t)i + 1;
                if (data(h, i, (size_t)k) < 0) return -1;
            }
            i = (size_t)k;
        } else if (starts(h, i, "&#")) {
            if (number_reference(h, i, &i, &stop) < 0) return -1;
        } else if (reference(h, i, last, &i, &stop) < 0) {
            return -1;
        }
    }
    if (last && i < h->n && !h->raw.s) {
        if (data(h, i, h->n) < 0) return -1;
        i = h->n;
    }
    *from = i;
    return 0;
}

int html_text(const char *s, size_t bytes, char **out, size_t *out_bytes, struct dl_err *e)
{
    struct html h = {.s = s, .n = bytes, .e = e};
    size_t at = 0;
    int rc = -1;
    for (int k = 0; k < N_PATTERNS; k++) {
        int code;
        PCRE2_SIZE where;
        h.re[k] = pcre2_compile((PCRE2_SPTR)pattern[k], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED, &code,
                                &where, NULL);
        if (!h.re[k]) {
            dl_fail(e, DL_EFAIL, "cannot compile the pattern %d of the HTML parser (PCRE2 error %d)", k, code);
            goto done;
        }
        if (bytes > WORTH_JIT) pcre2_jit_compile(h.re[k], PCRE2_JIT_COMPLETE);
    }
    h.match = pcre2_match_data_create(2, NULL);
    if (!h.match) {
        dl_fail(e, DL_ENOMEM, "no memory for the HTML parser");
        goto done;
    }
    if (add(&h.out, "", 0, e) < 0 || pass(&h, &at, false) < 0 || pass(&h, &at, true) < 0 ||
        end_data(&h, !h.n_hidden) < 0)
        goto done;
    *out = h.out.p;
    *out_bytes = h.out.n;
    h.out.p = NULL;
    rc = 0;
done:
    for (int k = 0; k < N_PATTERNS; k++) pcre2_code_free(h.re[k]);
    pcre2_match_data_free(h.match);
    free(h.open);
    free(h.data.p);
    free(h.out.p);
    return rc;
}
