#include "loaders/fix_text.h"

#include "loaders/html_entities.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Passes over a line stop when nothing changes; entities nested n deep (&amp;amp;amp;lt;) need n passes. All passes
 * together may touch this many characters. */
enum { MAX_STEPS = 20 * 1000 * 1000 };

static bool is_ascii_alnum(int32_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* Windows-1252 for 0x80..0x9f; the five bytes it leaves undefined keep their code. Serves C1 control characters and,
 * since Python's html.unescape has the same table, numeric entities. */
static const uint16_t cp1252[32] = {0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
                                    0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x008d, 0x017d, 0x008f,
                                    0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
                                    0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178};

static int push_utf8(struct text_u32 *out, const char *s, bool upper, struct dl_err *e)
{
    utf8proc_int32_t c;
    for (utf8proc_ssize_t n; *s; s += n) {
        n = utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &c);
        if (n <= 0) return dl_fail(e, DL_EFAIL, "entity table is damaged");
        if (text_push(out, upper ? utf8proc_toupper(c) : c, e) < 0) return -1;
    }
    return 0;
}

/* "#65", "#x41" (name[n], letters and digits behind '#'). Returns 1 when decoded (to one character or none), 0 when the
 * whole is to stay as it stands. */
static int numeric_entity(const char *name, int n, struct text_u32 *out, struct dl_err *e)
{
    int base = n > 1 && (name[1] == 'x' || name[1] == 'X') ? 16 : 10, first = base == 16 ? 2 : 1;
    int64_t v = 0;
    if (first >= n) return 0;
    for (int i = first; i < n; i++) {
        char c = name[i];
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : base == 16 && c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : base == 16 && c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                         : -1;
        if (digit < 0) return 0;
        if (v <= 0x10ffff) v = v * base + digit;
    }
    if (v == ';') return 0; /* ftfy takes a semicolon in the result for an entity that was decoded in part */
    if (v == 0 || (v >= 0xd800 && v <= 0xdfff) || v > 0x10ffff)
        v = 0xfffd;
    else if (v >= 0x80 && v <= 0x9f)
        v = cp1252[v - 0x80];
    else if ((v < 0x20 && v != 9 && v != 10 && v != 12 && v != 13) || v == 0x7f || (v >= 0xfdd0 && v <= 0xfdef) ||
             (v & 0xfffe) == 0xfffe)
        return 1; /* not allowed in HTML: dropped */
    return text_push(out, (int32_t)v, e) < 0 ? -1 : 1;
}

/* The upper-case spelling of an entity whose own name is all lower case. Names that begin with one of the old entities
 * that need no semicolon are ambiguous and stay. */
static int upper_entity(const char *name, int n, struct text_u32 *out, struct dl_err *e)
{
    static const char *const old[] = {"AMP", "COPY", "ETH", "GT", "LT", "QUOT", "REG", "THORN"};
    static const char *const longer[][2] = {/* capitals of more than one letter */
                                            {"FFILIG", "FFI"}, {"FFLIG", "FF"}, {"FFLLIG", "FFL"},
                                            {"FILIG", "FI"},   {"FLLIG", "FL"}, {"NAPOS", "\xca\xbcN"},
                                            {"SZLIG", "SS"}};
    char lower[25];
    for (int i = 0; i < n; i++) {
        if (name[i] >= 'a' && name[i] <= 'z') return 0;
        lower[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
    }
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if ((size_t)n >= strlen(old[i]) && !memcmp(name, old[i], strlen(old[i]))) return 0;
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++)
        if ((size_t)n == strlen(longer[i][0]) && !memcmp(name, longer[i][0], (size_t)n))
            return push_utf8(out, longer[i][1], false, e) < 0 ? -1 : 1;
    const char *text = html_entity(lower, n);
    if (!text) return 0;
    return push_utf8(out, text, true, e) < 0 ? -1 : 1;
}

/* &#?[0-9A-Za-z]{1,24}; replaced where it is known. */
static int unescape_html(const struct text_u32 *in, struct text_u32 *out, struct dl_err *e)
{
    for (int64_t i = 0; i < in->n; i++) {
        if (in->cp[i] == '&') {
            char name[26];
            int n = 0;
            int64_t j = i + 1;
            if (j < in->n && in->cp[j] == '#') name[n++] = '#', j++;
            int head = n;
            while (j < in->n && n - head < 24 && is_ascii_alnum(in->cp[j])) name[n++] = (char)in->cp[j++];
            if (n > head && j < in->n && in->cp[j] == ';') {
                int done;
                if (head) {
                    done = numeric_entity(name, n, out, e);
                } else {
                    const char *text = html_entity(name, n);
                    done = text ? (push_utf8(out, text, false, e) < 0 ? -1 : 1) : upper_entity(name, n, out, e);
                }
                if (done < 0) return -1;
                if (done) {
                    i = j;
                    continue;
                }
            }
        }
        if (text_push(out, in->cp[i], e) < 0) return -1;
    }
    return 0;
}

static const char *ligature(int32_t c)
{
    switch (c) {
    case 0x132: return "IJ";
    case 0x133: return "ij";
    case 0x149: return "\xca\xbcn";
    case 0x1f1: return "DZ";
    case 0x1f2: return "Dz";
    case 0x1f3: return "dz";
    case 0x1c4: return "D\xc5\xbd";
    case 0x1c5: return "D\xc5\xbe";
    case 0x1c6: return "d\xc5\xbe";
    case 0x1c7: return "LJ";
    case 0x1c8: return "Lj";
    case 0x1c9: return "lj";
    case 0x1ca: return "NJ";
    case 0x1cb: return "Nj";
    case 0x1cc: return "nj";
    case 0xfb00: return "ff";
    case 0xfb01: return "fi";
    case 0xfb02: return "fl";
    case 0xfb03: return "ffi";
    case 0xfb04: return "ffl";
    case 0xfb05: return "\xc5\xbft";
    case 0xfb06: return "st";
    default: return NULL;
    }
}

static int32_t uncurl(int32_t c)
{
    if (c == 0x2bc || (c >= 0x2018 && c <= 0x201b)) return '\'';
    if (c >= 0x201c && c <= 0x201f) return '"';
    return c;
}

/* The fixes that look at one character: C1 controls, ligatures, width, quotes, line breaks. Their order in ftfy lets
 * the result of one be the input of the next; here each character runs through the same chain. */
static int map_characters(const struct text_u32 *in, struct text_u32 *out, struct dl_err *e)
{
    for (int64_t i = 0; i < in->n; i++) {
        int32_t c = in->cp[i], part[8];
        utf8proc_ssize_t n = 1;
        if (c >= 0x80 && c <= 0x9f) c = cp1252[c - 0x80];
        const char *lig = ligature(c);
        part[0] = c;
        if (lig) {
            n = 0;
            for (utf8proc_ssize_t k; *lig; lig += k) k = utf8proc_iterate((const uint8_t *)lig, -1, &part[n++]);
        } else if (c == 0x3000) {
            part[0] = ' ';
        } else if (c > 0xff00 && c < 0xfff0) {
            int boundary = 0;
            n = utf8proc_decompose_char(c, part, 8, UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE, &boundary);
            if (n < 1 || n > 8) return dl_fail(e, DL_EFAIL, "cannot decompose character U+%04X", (unsigned)c);
        } else if (c == '\r') {
            if (i + 1 < in->n && in->cp[i + 1] == '\n') continue;
            part[0] = '\n';
        } else if (c == 0x2028 || c == 0x2029) {
            part[0] = '\n';
        }
        for (utf8proc_ssize_t k = 0; k < n; k++)
            if (text_push(out, uncurl(part[k]), e) < 0) return -1;
    }
    return 0;
}

static bool is_removed_control(int32_t c)
{
    return c < 9 || c == 0xb || (c >= 0xe && c < 0x20) || c == 0x7f || (c >= 0x206a && c < 0x2070) || c == 0xfeff ||
           (c >= 0xfff9 && c < 0xfffd);
}

/* Terminal escapes, ESC [ digits and semicolons, letter; then control characters. In place. */
static void drop_controls(struct text_u32 *t)
{
    int64_t n = 0;
    for (int64_t i = 0; i < t->n; i++) {
        int32_t c = t->cp[i];
        if (c == 27 && i + 1 < t->n && t->cp[i + 1] == '[') {
            int64_t j = i + 2;
            while (j < t->n && (t->cp[j] == ';' || utf8proc_category(t->cp[j]) == UTF8PROC_CATEGORY_ND)) j++;
            if (j < t->n && ((t->cp[j] >= 'A' && t->cp[j] <= 'Z') || (t->cp[j] >= 'a' && t->cp[j] <= 'z'))) {
                i = j;
                continue;
            }
        }
        if (!is_removed_control(c)) t->cp[n++] = c;
    }
    t->n = n;
}

/* One line, until it stays as it is. `a` holds it and the result, `b` is scratch. */
static int fix_line(struct text_u32 *a, struct text_u32 *b, struct text_u32 *before, bool html, int64_t *steps,
                    struct dl_err *e)
{
    for (;;) {
        *steps += a->n + 1;
        if (*steps > MAX_STEPS)
            return dl_fail(e, DL_EUSAGE, "text nests HTML entities too deeply: decode them first, or use --text hf5");
        before->n = b->n = 0;
        for (int64_t i = 0; i < a->n; i++)
            if (text_push(before, a->cp[i], e) < 0) return -1;
        if (html) {
            if (unescape_html(a, b, e) < 0) return -1;
            a->n = 0;
            if (map_characters(b, a, e) < 0) return -1;
        } else {
            if (map_characters(a, b, e) < 0) return -1;
            struct text_u32 swap = *a;
            *a = *b;
            *b = swap;
        }
        drop_controls(a);
        if (text_nfc(a, TEXT_HF4, e) < 0) return -1;
        if (a->n == before->n && !(a->n && memcmp(a->cp, before->cp, (size_t)a->n * sizeof *a->cp))) return 0;
    }
}

int fix_text(struct text_u32 *t, struct dl_err *e)
{
    struct text_u32 line = {0}, scratch = {0}, before = {0}, out = {0};
    int64_t steps = 0;
    bool html = true;
    int rc = -1;
    for (int64_t i = 0; i < t->n;) {
        line.n = 0;
        do {
            if (t->cp[i] == '<') html = false;
            if (text_push(&line, t->cp[i], e) < 0) goto done;
        } while (t->cp[i++] != '\n' && i < t->n);
        if (fix_line(&line, &scratch, &before, html, &steps, e) < 0) goto done;
        for (int64_t j = 0; j < line.n; j++)
            if (text_push(&out, line.cp[j], e) < 0) goto done;
    }
    free(t->cp);
    *t = out;
    memset(&out, 0, sizeof out);
    rc = 0;
done:
    text_free(&line);
    text_free(&scratch);
    text_free(&before);
    text_free(&out);
    return rc;
}
