#include "loaders/caption_clean.h"

#include "loaders/fix_text.h"
#include "loaders/html_text.h"
#include "loaders/text_clean.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* \s, \w, \d, \b and $ as Python's re has them for str; PCRE2's own change from version to version. */
#define SP "\\x09-\\x0d\\x1c-\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define W "\\p{L}\\p{N}_"
#define D "\\p{Nd}"
#define B "(?:(?<=[" W "])(?![" W "])|(?<![" W "])(?=[" W "]))"
#define END "(?=\\n?\\z)"
#define HOST "[a-zA-Z0-9.\\-]+[.](?:com|co|ru|net|org|edu|gov|it)[" W "/-]*" B "/?(?!@)"
#define FILES "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"

enum { WORTH_JIT = 2000 }; /* texts above it take longer than compiling the patterns for the machine */

struct rule {
    const char *pattern, *with;
};

/* Before the HTML parser. */
static const struct rule urls[] = {
    {"<person>", "person"},
    {B "(?:https?:(?:/{1,3}|[a-zA-Z0-9%])|" HOST ")", ""},
    {B "(?:www:(?:/{1,3}|[a-zA-Z0-9%])|" HOST ")", ""},
};
/* Behind it, up to file names. */
static const struct rule signs[] = {
    {"@[" W "]+" B, ""},
    {"[\\x{31c0}-\\x{31ef}]+", ""},
    {"[\\x{31f0}-\\x{31ff}]+", ""},
    {"[\\x{3200}-\\x{9fff}]+", ""},
    {"[-\\x{58a}\\x{5be}\\x{1400}\\x{1806}\\x{2010}-\\x{2015}\\x{2e17}\\x{2e1a}\\x{2e3a}\\x{2e3b}\\x{2e40}\\x{301c}"
     "\\x{3030}\\x{30a0}\\x{fe31}\\x{fe32}\\x{fe58}\\x{fe63}\\x{ff0d}]+",
     "-"},
    {"[`´«»“”¨]", "\""},
    {"[‘’]", "'"},
    {"&quot;?", ""},
    {"&amp", ""},
    {"[" D "]{1,3}\\.[" D "]{1,3}\\.[" D "]{1,3}\\.[" D "]{1,3}", " "}, /* IP addresses */
    {"[" D "]:[" D "]{2}[" SP "]+" END, ""},                            /* article ids */
    {"\\\\n", " "},
    {"#[" D "]{1,3}" B, ""},
    {"#[" D "]{5,}" B, ""},
    {B "[" D "]{6,}" B, ""},
};
/* Behind those, up to the counting of dashes. The lookbehind changes no match: it spares starts within white space. */
static const struct rule runs[] = {
    {"[\"']{2,}", "\""},
    {"\\.{2,}", " "},
    {"[#®•©™&@·º½¾¿¡§~)(\\]\\[}{|\\\\/*]+", " "},
    {"(?<![" SP "])[" SP "]+\\.[" SP "]+", " "},
};
/* Behind ftfy. */
static const struct rule words[] = {
    {B "[a-zA-Z]{1,3}[" D "]{3,15}" B, ""}, /* jc6640 */
    {B "[a-zA-Z]+[" D "]+[a-zA-Z]+" B, ""}, /* jc6640vc */
    {B "[" D "]+[a-zA-Z]+[" D "]+" B, ""},  /* 6640vc231 */
    {"(?:worldwide[" SP "]+)?(?:free[" SP "]+)?shipping", ""},
    {"(?:free[" SP "])?download(?:[" SP "]free)?", ""},
    {B "click" B "[" SP "](?:for|on)[" SP "][" W "]+", ""},
    {B FILES "(?:[" SP "]images?)?", ""},
    {B "page[" SP "]+[" D "]+" B, ""},
    {B "[" D "]*[a-zA-Z]+[" D "]+[a-zA-Z]+[" D "]+[a-zA-Z" D "]*" B, " "}, /* j2d1a2a */
    {B "[" D "]+\\.?[" D "]*[xх×][" D "]+\\.?[" D "]*" B, ""},             /* 4x4; the second is Cyrillic */
    {B "[" SP "]+:[" SP "]+", ": "},
    {"([^" D "][,./])" B, "$1 "},
    {"[" SP "]+", " "},
    {"\\A[\"']([\\s\\S]+)[\"']" END, "$1"},
    {"\\A['_,\\-:;]", ""},
    {"['_,\\-:+]" END, ""},
    {"\\A\\.[^" SP "]+" END, ""},
};
#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

/* The caption between two steps, UTF-8. */
struct caption {
    char *s; /* [n + 1] */
    size_t n;
};

static void take(struct caption *c, char *s, size_t n)
{
    free(c->s);
    c->s = s;
    c->n = n;
}

/* re.sub(pattern, with, caption). */
static int substitute(struct caption *c, const struct rule *r, struct dl_err *e)
{
    int code;
    PCRE2_SIZE where, n = c->n + c->n / 4 + 64, room = n;
    char *out = NULL;
    int rc = PCRE2_ERROR_NOMEMORY;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)r->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &where, NULL);
    if (!re) return dl_fail(e, DL_EFAIL, "cannot compile the pattern %s (PCRE2 error %d)", r->pattern, code);
    if (c->n > WORTH_JIT) pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* where there is none, the interpreter runs */
    for (int k = 0; k < 2 && rc == PCRE2_ERROR_NOMEMORY; k++) {
        free(out);
        room = n;
        out = malloc(n);
        if (!out) break;
        rc = pcre2_substitute(re, (PCRE2_SPTR)c->s, c->n, 0,
                              PCRE2_NO_UTF_CHECK | PCRE2_SUBSTITUTE_GLOBAL | PCRE2_SUBSTITUTE_OVERFLOW_LENGTH, NULL,
                              NULL, (PCRE2_SPTR)r->with, PCRE2_ZERO_TERMINATED, (PCRE2_UCHAR *)out, &room);
        if (rc == PCRE2_ERROR_NOMEMORY) n = room + 1;
    }
    pcre2_code_free(re);
    if (rc < 0) {
        free(out);
        if (!out || rc == PCRE2_ERROR_NOMEMORY) return dl_fail(e, DL_ENOMEM, "no memory to clean a caption");
        return dl_fail(e, DL_EUSAGE,
                       "cleaning the caption takes too long (PCRE2 error %d): shorten it, or leave it as it "
                       "is with --clean-caption off",
                       rc);
    }
    take(c, out, room);
    return 0;
}

static int substitute_all(struct caption *c, const struct rule *r, int n, struct dl_err *e)
{
    for (int i = 0; i < n; i++)
        if (substitute(c, &r[i], e) < 0) return -1;
    return 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* How many of the bytes at s[n] begin a valid UTF-8 character; *whole when they are all of one. */
static size_t valid_prefix(const uint8_t *s, size_t n, bool *whole)
{
    size_t need = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0, k = 1;
    uint8_t lo = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t hi = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    while (k < need && k < n && s[k] >= lo && s[k] <= hi) k++, lo = 0x80, hi = 0xbf;
    *whole = need && k == need;
    return k;
}

/* urllib's unquote_plus(): within each stretch of ASCII, escapes become bytes and the whole is read as UTF-8, each
 * longest part that is none as U+FFFD. */
static int unquote(struct caption *c, struct dl_err *e)
{
    uint8_t *raw = malloc(c->n + 1);
    char *out = malloc(3 * c->n + 1);
    size_t w = 0;
    if (!raw || !out) {
        free(raw);
        free(out);
        return dl_fail(e, DL_ENOMEM, "no memory to clean a caption");
    }
    for (size_t i = 0; i < c->n;) {
        if ((unsigned char)c->s[i] >= 0x80) {
            out[w++] = c->s[i++];
            continue;
        }
        size_t n = 0;
        while (i < c->n && (unsigned char)c->s[i] < 0x80) {
            int hi = -1, lo = -1;
            if (c->s[i] == '%' && i + 2 < c->n) hi = hex_value(c->s[i + 1]), lo = hex_value(c->s[i + 2]);
            bool escape = hi >= 0 && lo >= 0;
            raw[n++] = (uint8_t)(escape ? 16 * hi + lo : c->s[i] == '+' ? ' ' : c->s[i]);
            i += escape ? 3 : 1;
        }
        for (size_t j = 0; j < n;) {
            bool whole;
            size_t k = valid_prefix(raw + j, n - j, &whole);
            memcpy(out + w, whole ? (char *)raw + j : "\xef\xbf\xbd", whole ? k : 3);
            w += whole ? k : 3;
            j += k;
        }
    }
    out[w] = 0;
    free(raw);
    take(c, out, w);
    return 0;
}

/* Python's isspace(). */
static bool is_space(int32_t c) { return text_is_space(c) || (c >= 0x1c && c <= 0x1f); }

static void strip(struct text_u32 *t)
{
    int64_t from = 0;
    while (t->n && is_space(t->cp[t->n - 1])) t->n--;
    while (from < t->n && is_space(t->cp[from])) from++;
    t->n -= from;
    if (from) memmove(t->cp, t->cp + from, (size_t)t->n * sizeof *t->cp);
}

/* Runs one step that works on code points. */
enum step { STEP_STRIP, STEP_STRIP_LOWER, STEP_LOWER_STRIP, STEP_FIX };

static int run_step(struct caption *c, enum step step, struct dl_err *e)
{
    struct text_u32 t = {0};
    char *s;
    size_t n;
    int rc = text_decode(&t, c->s, c->n, e);
    if (rc == 0 && (step == STEP_STRIP || step == STEP_STRIP_LOWER)) strip(&t);
    if (rc == 0 && (step == STEP_STRIP_LOWER || step == STEP_LOWER_STRIP)) rc = text_lower(&t, TEXT_HF4, e);
    if (rc == 0 && step == STEP_LOWER_STRIP) strip(&t);
    if (rc == 0 && step == STEP_FIX) rc = fix_text(&t, e);
    if (rc == 0) rc = text_encode(&t, &s, &n, e);
    if (rc == 0) take(c, s, n);
    text_free(&t);
    return rc;
}

static int run_html(struct caption *c, int (*what)(const char *, size_t, char **, size_t *, struct dl_err *),
                    struct dl_err *e)
{
    char *s;
    size_t n;
    if (what(c->s, c->n, &s, &n, e) < 0) return -1;
    take(c, s, n);
    return 0;
}

/* re.sub(r"[\S]+\.(?:png|...)", "", caption) in linear time: of each run without white space, what stands before the
 * last such ending goes with it, provided that there is something before its dot. In place. */
static void drop_file_names(struct caption *c)
{
    static const char *const ending[] = {"png", "jpg", "jpeg", "bmp", "webp", "eps", "pdf", "apk", "mp4"};
    size_t w = 0, start = 0, keep = 0; /* the run begins at `start`; what to keep of it at `keep` */
    for (size_t i = 0; i < c->n;) {
        utf8proc_int32_t cp;
        size_t k = (size_t)utf8proc_iterate((const uint8_t *)c->s + i, (utf8proc_ssize_t)(c->n - i), &cp);
        if (is_space(cp)) {
            memmove(c->s + w, c->s + keep, i + k - keep);
            w += i + k - keep;
            start = keep = i + k;
        } else if (cp == '.' && i > start) {
            for (int j = 0; j < COUNT(ending); j++) {
                size_t n = strlen(ending[j]);
                if (c->n - i > n && !memcmp(c->s + i + 1, ending[j], n)) {
                    keep = i + 1 + n;
                    break;
                }
            }
        }
        i += k;
    }
    memmove(c->s + w, c->s + keep, c->n - keep);
    c->n = w + c->n - keep;
    c->s[c->n] = 0;
}

/* More than three '-' and '_': all of them to spaces. */
static void spread_dashes(struct caption *c)
{
    int count = 0;
    for (size_t i = 0; i < c->n; i++) count += c->s[i] == '-' || c->s[i] == '_';
    for (size_t i = 0; i < c->n && count > 3; i++)
        if (c->s[i] == '-' || c->s[i] == '_') c->s[i] = ' ';
}

static int clean_once(struct caption *c, struct dl_err *e)
{
    if (unquote(c, e) < 0 || run_step(c, STEP_STRIP_LOWER, e) < 0 || substitute_all(c, urls, COUNT(urls), e) < 0 ||
        run_html(c, html_text, e) < 0 || substitute_all(c, signs, COUNT(signs), e) < 0)
        return -1;
    drop_file_names(c);
    if (substitute_all(c, runs, COUNT(runs), e) < 0) return -1;
    spread_dashes(c);
    if (run_step(c, STEP_FIX, e) < 0 || run_html(c, html_unescape, e) < 0 || run_html(c, html_unescape, e) < 0 ||
        substitute_all(c, words, COUNT(words), e) < 0)
        return -1;
    return run_step(c, STEP_STRIP, e);
}

static int start(struct caption *c, const char *text, size_t bytes, struct dl_err *e)
{
    struct text_u32 check = {0};
    int rc = text_decode(&check, text, bytes, e);
    if (rc == 0) rc = text_encode(&check, &c->s, &c->n, e);
    text_free(&check);
    return rc;
}

static int finish(struct caption *c, int rc, char **out, size_t *out_bytes)
{
    if (rc < 0) {
        free(c->s);
        *out = NULL;
        return -1;
    }
    *out = c->s;
    if (out_bytes) *out_bytes = c->n;
    return 0;
}

int caption_clean(const char *text, size_t bytes, char **out, size_t *out_bytes, struct dl_err *e)
{
    struct caption c = {0};
    int rc = start(&c, text, bytes, e);
    for (int k = 0; k < 2 && rc == 0; k++) {
        if (c.n > CAPTION_MAX_BYTES)
            rc = dl_fail(e, DL_EUSAGE,
                         "caption of %zu bytes: at most %d are cleaned; shorten it, or leave it as it is "
                         "with --clean-caption off",
                         c.n, CAPTION_MAX_BYTES);
        else
            rc = clean_once(&c, e);
    }
    return finish(&c, rc, out, out_bytes);
}

int caption_lower(const char *text, size_t bytes, char **out, size_t *out_bytes, struct dl_err *e)
{
    struct caption c = {0};
    int rc = start(&c, text, bytes, e);
    if (rc == 0) rc = run_step(&c, STEP_LOWER_STRIP, e);
    return finish(&c, rc, out, out_bytes);
}
