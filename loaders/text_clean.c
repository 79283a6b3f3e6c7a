#include "loaders/text_clean.h"

#include "loaders/fix_text.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct range {
    int32_t lo, hi;
};

/* Marks with a combining class in Unicode 18 that the reference's NFC takes for ordinary letters, and the blocks whose
 * letters compose since then only. Made by `tools/ref/tokens_clip.py ranges`. */
static const struct range inert_hf5[] = {
    {0x5c8, 0x5c9},     {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1af0},
    {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x105c0, 0x105f3}, {0x10d24, 0x10d27}, {0x10d69, 0x10d6d},
    {0x10eab, 0x10eac}, {0x10ecb, 0x10ecf}, {0x10ef0, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x11380, 0x113e2}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
    {0x11d42, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16100, 0x1612f}, {0x16d40, 0x16d7f},
    {0x16ff0, 0x16ff1}, {0x1d127, 0x1d128}, {0x1d250, 0x1d281}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
    {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef}, {0x1e6e3, 0x1e6f5},
};
static const struct range inert_hf4[] = {
    {0x5c8, 0x5c9},     {0x897, 0x897},     {0x1acf, 0x1af0},   {0x105c0, 0x105f3}, {0x10d69, 0x10d6d},
    {0x10ecb, 0x10ecf}, {0x10ef0, 0x10eff}, {0x11380, 0x113e2}, {0x11f41, 0x11f42}, {0x16100, 0x1612f},
    {0x16d40, 0x16d7f}, {0x1d127, 0x1d128}, {0x1d250, 0x1d281}, {0x1e08f, 0x1e08f}, {0x1e4ec, 0x1e4ef},
    {0x1e5ee, 0x1e5ef}, {0x1e6e3, 0x1e6f5},
};

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static bool in_ranges(int32_t cp, const struct range *r, int n)
{
    int lo = 0, hi = n;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (cp > r[mid].hi)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && cp >= r[lo].lo;
}

void text_free(struct text_u32 *t)
{
    free(t->cp);
    memset(t, 0, sizeof *t);
}

static int reserve(struct text_u32 *t, int64_t n, struct dl_err *e)
{
    if (n <= t->cap) return 0;
    int64_t cap = n + n / 2 + 32;
    int32_t *cp = realloc(t->cp, (size_t)cap * sizeof *cp);
    if (!cp) return dl_fail(e, DL_ENOMEM, "no memory for a text of %lld characters", (long long)n);
    t->cp = cp;
    t->cap = cap;
    return 0;
}

int text_push(struct text_u32 *t, int32_t cp, struct dl_err *e)
{
    if (t->n == t->cap && reserve(t, t->n + 1, e) < 0) return -1;
    t->cp[t->n++] = cp;
    return 0;
}

int text_decode(struct text_u32 *t, const char *s, size_t bytes, struct dl_err *e)
{
    t->n = 0;
    if (bytes > TEXT_MAX_BYTES)
        return dl_fail(e, DL_EUSAGE, "text of %zu bytes: at most %d are accepted", bytes, TEXT_MAX_BYTES);
    if (reserve(t, (int64_t)bytes, e) < 0) return -1;
    for (size_t i = 0; i < bytes;) {
        utf8proc_int32_t cp;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(bytes - i), &cp);
        if (n <= 0)
            return dl_fail(e, DL_EUSAGE, "text is not valid UTF-8 at byte %zu (0x%02x): convert it to UTF-8 first", i,
                           (unsigned)(unsigned char)s[i]);
        t->cp[t->n++] = cp;
        i += (size_t)n;
    }
    return 0;
}

int text_encode(const struct text_u32 *t, char **s, size_t *bytes, struct dl_err *e)
{
    char *p = malloc((size_t)t->n * 4 + 1);
    if (!p) return dl_fail(e, DL_ENOMEM, "no memory for a text of %lld characters", (long long)t->n);
    size_t n = 0;
    for (int64_t i = 0; i < t->n; i++) n += (size_t)utf8proc_encode_char(t->cp[i], (utf8proc_uint8_t *)p + n);
    p[n] = 0;
    *s = p;
    *bytes = n;
    return 0;
}

/* Stable sort of a run of n marks by combining class. utf8proc's own ordering takes quadratic time on long runs. */
static int sort_marks(int32_t *cp, int64_t n, struct dl_err *e)
{
    bool sorted = true;
    for (int64_t i = 1; i < n; i++)
        if (utf8proc_get_property(cp[i - 1])->combining_class > utf8proc_get_property(cp[i])->combining_class)
            sorted = false;
    if (sorted) return 0;
    int64_t start[256] = {0};
    for (int64_t i = 0; i < n; i++) {
        int c = utf8proc_get_property(cp[i])->combining_class;
        if (c < 255) start[c + 1]++;
    }
    for (int c = 1; c < 256; c++) start[c] += start[c - 1];
    int32_t *copy = malloc((size_t)n * sizeof *copy);
    if (!copy) return dl_fail(e, DL_ENOMEM, "no memory for %lld combining marks", (long long)n);
    memcpy(copy, cp, (size_t)n * sizeof *copy);
    for (int64_t i = 0; i < n; i++) cp[start[utf8proc_get_property(copy[i])->combining_class]++] = copy[i];
    free(copy);
    return 0;
}

/* NFC of in[n] appended to out. */
static int nfc_stretch(const int32_t *in, int64_t n, struct text_u32 *out, struct dl_err *e)
{
    int64_t first = out->n;
    bool plain = true; /* below U+0300 nothing composes, nothing is reordered */
    for (int64_t i = 0; i < n && plain; i++) plain = in[i] < 0x300;
    if (reserve(out, out->n + n, e) < 0) return -1;
    if (plain) {
        if (n) memcpy(out->cp + out->n, in, (size_t)n * sizeof *in);
        out->n += n;
        return 0;
    }
    for (int64_t i = 0; i < n; i++) {
        int boundary = 0;
        utf8proc_int32_t part[32];
        utf8proc_ssize_t k = utf8proc_decompose_char(in[i], part, COUNT(part), UTF8PROC_DECOMPOSE, &boundary);
        if (k < 0 || k > COUNT(part)) return dl_fail(e, DL_EFAIL, "cannot decompose character U+%04X", (unsigned)in[i]);
        for (utf8proc_ssize_t j = 0; j < k; j++)
            if (text_push(out, part[j], e) < 0) return -1;
    }
    for (int64_t i = first; i < out->n;) {
        int64_t j = i;
        while (j < out->n && utf8proc_get_property(out->cp[j])->combining_class) j++;
        if (j - i > 1 && sort_marks(out->cp + i, j - i, e) < 0) return -1;
        i = j + 1;
    }
    out->n = first + utf8proc_normalize_utf32(out->cp + first, out->n - first, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    return 0;
}

int text_nfc(struct text_u32 *t, enum text_mode mode, struct dl_err *e)
{
    const struct range *inert = mode == TEXT_HF4 ? inert_hf4 : inert_hf5;
    int n_inert = mode == TEXT_HF4 ? COUNT(inert_hf4) : COUNT(inert_hf5);
    struct text_u32 out = {0};
    for (int64_t i = 0; i < t->n;) {
        int64_t j = i;
        while (j < t->n && !(t->cp[j] >= 0x300 && in_ranges(t->cp[j], inert, n_inert))) j++;
        if (nfc_stretch(t->cp + i, j - i, &out, e) < 0) goto fail;
        if (j < t->n && text_push(&out, t->cp[j], e) < 0) goto fail;
        i = j + 1;
    }
    free(t->cp);
    *t = out;
    return 0;
fail:
    text_free(&out);
    return -1;
}

bool text_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Capitals younger than Python 3.11: hf5 lowers them, hf4 does not. */
static int32_t lower_young(int32_t c)
{
    static const struct {
        int32_t lo, hi, add;
    } young[] = {
        {0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
        {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},
        {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
        {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
        {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 0x1b},
    };
    for (int i = 0; i < COUNT(young); i++)
        if (c >= young[i].lo && c <= young[i].hi) return c + young[i].add;
    return 0;
}

static bool is_cased(int32_t c)
{
    static const struct range other[] = {{0xaa, 0xaa},       {0xba, 0xba},       {0x2160, 0x217f},  {0x24b6, 0x24e9},
                                         {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
           in_ranges(c, other, COUNT(other));
}

static bool is_case_ignorable(int32_t c)
{
    static const struct range other[] = {{0x27, 0x27},     {0x2e, 0x2e},     {0x3a, 0x3a},     {0xb7, 0xb7},
                                         {0x387, 0x387},   {0x55f, 0x55f},   {0x5f4, 0x5f4},   {0x2018, 0x2019},
                                         {0x2024, 0x2024}, {0x2027, 0x2027}, {0xfe13, 0xfe13}, {0xfe52, 0xfe52},
                                         {0xfe55, 0xfe55}, {0xff07, 0xff07}, {0xff0e, 0xff0e}, {0xff1a, 0xff1a}};
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK || in_ranges(c, other, COUNT(other));
}

/* Unicode's Final_Sigma condition at position i, as Python's str.lower() applies it. Between two sigmas each character
 * is looked at twice at most, since a sigma ends the search. */
static bool is_final_sigma(const struct text_u32 *t, int64_t i)
{
    int64_t j = i - 1;
    while (j >= 0 && is_case_ignorable(t->cp[j])) j--;
    if (j < 0 || !is_cased(t->cp[j])) return false;
    for (j = i + 1; j < t->n && is_case_ignorable(t->cp[j]);) j++;
    return j == t->n || !is_cased(t->cp[j]);
}

static int lower(const struct text_u32 *in, enum text_mode mode, struct text_u32 *out, struct dl_err *e)
{
    for (int64_t i = 0; i < in->n; i++) {
        int32_t c = in->cp[i], young = c < 0x1c89 ? 0 : lower_young(c);
        if (c == 0x130) { /* capital I with dot: the only letter that becomes two */
            if (text_push(out, 'i', e) < 0) return -1;
            c = 0x307;
        } else if (c == 0x3a3 && mode == TEXT_HF4 && is_final_sigma(in, i)) {
            c = 0x3c2;
        } else if (young) {
            if (mode == TEXT_HF5) c = young;
        } else {
            c = utf8proc_tolower(c);
        }
        if (text_push(out, c, e) < 0) return -1;
    }
    return 0;
}

/* Runs of white space to one space; `strip` drops those at both ends. */
static void collapse_spaces(struct text_u32 *t, bool strip)
{
    int64_t n = 0;
    bool gap = strip; /* the next white space is dropped */
    for (int64_t i = 0; i < t->n; i++) {
        bool space = text_is_space(t->cp[i]);
        if (!space)
            t->cp[n++] = t->cp[i];
        else if (!gap)
            t->cp[n++] = ' ';
        gap = space || (strip && n == 0);
    }
    if (strip && n && t->cp[n - 1] == ' ') n--;
    t->n = n;
}

int text_lower(struct text_u32 *t, enum text_mode mode, struct dl_err *e)
{
    struct text_u32 out = {0};
    if (lower(t, mode, &out, e) < 0) {
        text_free(&out);
        return -1;
    }
    free(t->cp);
    *t = out;
    return 0;
}

int text_clean(struct text_u32 *t, enum text_mode mode, struct dl_err *e)
{
    if (mode == TEXT_HF4 ? fix_text(t, e) < 0 : text_nfc(t, mode, e) < 0) return -1;
    collapse_spaces(t, mode == TEXT_HF4);
    return text_lower(t, mode, e);
}
