#include "loaders/t5_tokens.h"

#include "loaders/t5_vocab.h"
#include "loaders/text_clean.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define SPACE_MARK "\xe2\x96\x81" /* U+2581: stands for the space before a word */

/* Longest text after normalisation: the real character map makes at most eleven bytes of one. */
enum { MAX_SPELLED = 16 << 20, MARK_BYTES = 3 };

struct bytes {
    char *p; /* [n] */
    size_t n, cap;
};

/* Best way to spell a word up to some byte. */
struct node {
    double score;
    int32_t from, id; /* where its last piece begins, -1 when it cannot be reached; the piece */
};

struct run {
    const struct t5_tokens *t;
    int32_t *id; /* [n] ids so far, without the end token */
    size_t *end; /* [n] where each ends in `spelled` */
    int64_t n, cap;
    struct bytes norm;    /* the stretch at hand, normalised */
    struct bytes spelled; /* all words so far, each behind its SPACE_MARK */
    struct node *node;    /* [node_cap] */
    size_t node_cap;
};

static int add_bytes(struct bytes *b, const char *s, size_t n, struct dl_err *e)
{
    if (n > MAX_SPELLED - b->n)
        return dl_fail(e, DL_EUSAGE, "text is longer than %d MB after normalisation: shorten it", MAX_SPELLED >> 20);
    if (b->n + n > b->cap) {
        size_t cap = (b->n + n) * 3 / 2 + 256;
        char *p = realloc(b->p, cap);
        if (!p) return dl_fail(e, DL_ENOMEM, "no memory for a text of %zu bytes", cap);
        b->p = p;
        b->cap = cap;
    }
    if (n) memcpy(b->p + b->n, s, n);
    b->n += n;
    return 0;
}

/* One more id, which spells what `spelled` holds up to `end`. */
static int emit(struct run *r, int32_t id, size_t end, struct dl_err *e)
{
    if (r->n == r->cap) {
        int64_t cap = r->cap * 2 + 128;
        int32_t *id_new = realloc(r->id, (size_t)cap * sizeof *id_new);
        if (id_new) r->id = id_new;
        size_t *end_new = realloc(r->end, (size_t)cap * sizeof *end_new);
        if (end_new) r->end = end_new;
        if (!id_new || !end_new) return dl_fail(e, DL_ENOMEM, "no memory for %lld tokens", (long long)cap);
        r->cap = cap;
    }
    r->id[r->n] = id;
    r->end[r->n++] = end;
    return 0;
}

/* Length of the UTF-8 character that begins with c; the text is known to be valid. */
static size_t char_bytes(char c)
{
    unsigned char u = (unsigned char)c;
    return u < 0x80 ? 1 : u < 0xe0 ? 2 : u < 0xf0 ? 3 : 4;
}

/* Among order[lo..hi), whose first `depth` bytes agree: the first whose next byte is at least c. */
static int32_t lower_bound(const struct t5_tokens *t, int32_t lo, int32_t hi, size_t depth, int c)
{
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)t->piece[t->order[mid]][depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void offer(struct node *to, double score, size_t from, int32_t id)
{
    if (to->from >= 0 && score <= to->score) return;
    *to = (struct node){score, (int32_t)from, id};
}

/* Offers every piece that s[n] begins with at `at`, and <unk> when its first character is none. */
static void offer_pieces(const struct t5_tokens *t, struct node *node, const char *s, size_t n, size_t at)
{
    size_t one = char_bytes(s[at]);
    double score = node[at].score;
    bool has_one = false;
    int32_t lo = t->first[(unsigned char)s[at]], hi = t->first[(unsigned char)s[at] + 1];
    for (size_t len = 1; lo < hi; len++) {
        int32_t id = t->order[lo];
        if (!t->piece[id][len]) { /* the piece that ends here sorts before those that go on */
            offer(&node[at + len], t->score[id] + score, at, id);
            has_one |= len == one;
        }
        if (at + len == n) break;
        int c = (unsigned char)s[at + len];
        if (c == 0) break;
        lo = lower_bound(t, lo, hi, len, c);
        hi = lower_bound(t, lo, hi, len, c + 1);
    }
    if (!has_one) offer(&node[at + one], t->unk_score + score, at, T5_UNK);
}

/* The best spelling of the word that `spelled` ends with, from byte `start` on. */
static int split_word(struct run *r, size_t start, struct dl_err *e)
{
    const char *s = r->spelled.p + start;
    size_t n = r->spelled.n - start;
    if (n + 1 > r->node_cap) {
        free(r->node);
        r->node_cap = n * 3 / 2 + 64;
        r->node = malloc(r->node_cap * sizeof *r->node);
        if (!r->node) {
            r->node_cap = 0;
            return dl_fail(e, DL_ENOMEM, "no memory for a word of %zu bytes", n);
        }
    }
    for (size_t i = 0; i <= n; i++) r->node[i] = (struct node){0, -1, 0};
    for (size_t i = 0; i < n; i += char_bytes(s[i])) offer_pieces(r->t, r->node, s, n, i);
    /* Turn the links from the end around, so that they can be followed from the start. */
    int32_t next = -1, at = (int32_t)n, id = 0;
    while (at >= 0) {
        struct node here = r->node[at];
        r->node[at].from = next;
        r->node[at].id = id;
        next = at;
        id = here.id;
        at = here.from;
    }
    for (at = 0; r->node[at].from >= 0; at = next) {
        next = r->node[at].from;
        id = r->node[at].id;
        if (id == T5_UNK && at > 0 && r->id[r->n - 1] == T5_UNK)
            r->end[r->n - 1] = start + (size_t)next;
        else if (emit(r, id, start + (size_t)next, e) < 0)
            return -1;
    }
    return 0;
}

/* Whether a cluster ends between a and b. Marks of Unicode 15 to 17 that the reference knows are told to an older
 * utf8proc as U+0301; only those of three bytes in UTF-8 can make a difference (a cluster of less than six bytes whose
 * first character is mapped). */
static bool ends_cluster(int32_t a, int32_t b, int32_t *state)
{
    if (b == 0x897 || b == 0xcf3 || b == 0xece || (b >= 0x1acf && b <= 0x1add) || (b >= 0x1ae0 && b <= 0x1aeb))
        b = 0x301;
    return utf8proc_grapheme_break_stateful(a, b, state);
}

/* The character map on each cluster, or on its characters. */
static int normalise(struct run *r, const char *s, size_t n, struct dl_err *e)
{
    r->norm.n = 0;
    for (size_t i = 0, j; i < n; i = j) {
        utf8proc_int32_t c, next, state = 0;
        j = i + (size_t)utf8proc_iterate((const uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
        while (j < n) {
            utf8proc_ssize_t k = utf8proc_iterate((const uint8_t *)s + j, (utf8proc_ssize_t)(n - j), &next);
            if (ends_cluster(c, next, &state)) break;
            j += (size_t)k;
            c = next;
        }
        const char *to = j - i < 6 ? t5_map_find(r->t, s + i, j - i) : NULL;
        if (to) {
            if (add_bytes(&r->norm, to, strlen(to), e) < 0) return -1;
            continue;
        }
        for (size_t k = i, one; k < j; k += one) {
            one = char_bytes(s[k]);
            to = t5_map_find(r->t, s + k, one);
            if (add_bytes(&r->norm, to ? to : s + k, to ? strlen(to) : one, e) < 0) return -1;
        }
    }
    return 0;
}

/* A stretch without special tokens: normalised, cut into words (which also end before each SPACE_MARK), spelled. */
static int run_stretch(struct run *r, const char *text, size_t bytes, struct dl_err *e)
{
    if (normalise(r, text, bytes, e) < 0) return -1;
    const char *s = r->norm.p;
    bool inside = false;
    size_t start = 0;
    for (size_t i = 0, one; i < r->norm.n; i += one) {
        utf8proc_int32_t c;
        one = (size_t)utf8proc_iterate((const uint8_t *)s + i, (utf8proc_ssize_t)(r->norm.n - i), &c);
        bool mark = one == MARK_BYTES && !memcmp(s + i, SPACE_MARK, MARK_BYTES), space = text_is_space(c);
        if (inside && (mark || space) && split_word(r, start, e) < 0) return -1;
        if (space) {
            inside = false;
            continue;
        }
        if (!inside || mark) {
            start = r->spelled.n;
            if (!mark && add_bytes(&r->spelled, SPACE_MARK, MARK_BYTES, e) < 0) return -1;
        }
        inside = true;
        if (add_bytes(&r->spelled, s + i, one, e) < 0) return -1;
    }
    return inside ? split_word(r, start, e) : 0;
}

/* The special token that s[n] begins with: its length, 0 for none. */
static size_t find_special(const struct t5_tokens *t, const char *s, size_t n, int32_t *id)
{
    static const char extra[] = "<extra_id_";
    size_t head = sizeof extra - 1;
    for (int k = 0; k < 3; k++) {
        size_t m = strlen(t->piece[k]);
        if (n >= m && !memcmp(s, t->piece[k], m)) return *id = k, m;
    }
    if (n < head || memcmp(s, extra, head) != 0) return 0;
    int number = 0;
    size_t i = head;
    for (; i < n && i < head + 6 && s[i] >= '0' && s[i] <= '9'; i++) number = number * 10 + s[i] - '0';
    if (i == head || i == n || s[i] != '>' || number >= t->n_extra || (s[head] == '0' && i > head + 1)) return 0;
    *id = t->n_pieces - 1 - number;
    return i + 1;
}

static int run_text(struct run *r, const char *text, size_t bytes, struct dl_err *e)
{
    size_t from = 0;
    for (size_t i = 0; i < bytes;) {
        int32_t id = 0;
        const char *open = memchr(text + i, '<', bytes - i);
        if (!open) break;
        i = (size_t)(open - text);
        size_t n = find_special(r->t, open, bytes - i, &id);
        if (!n) {
            i++;
            continue;
        }
        if (run_stretch(r, text + from, i - from, e) < 0 || add_bytes(&r->spelled, open, n, e) < 0 ||
            emit(r, id, r->spelled.n, e) < 0)
            return -1;
        from = i += n;
    }
    return run_stretch(r, text + from, bytes - from, e);
}

/* What was spelled from byte `from` on, with spaces, without one in front. Malloc'd. */
static char *spell(const struct run *r, size_t from)
{
    size_t n = r->spelled.n - from, k = 0;
    const char *s = n ? r->spelled.p + from : "";
    char *out = malloc(n + 1);
    if (!out) return NULL;
    for (size_t i = 0; i < n;) {
        bool mark = n - i >= MARK_BYTES && !memcmp(s + i, SPACE_MARK, MARK_BYTES);
        if (!mark)
            out[k++] = s[i];
        else if (k)
            out[k++] = ' ';
        i += mark ? MARK_BYTES : 1;
    }
    for (size_t i = 0; i < k; i++)
        if (!out[i]) out[i] = ' '; /* a NUL is an ordinary character of a text */
    out[k] = 0;
    return out;
}

static int fill_list(const struct run *r, int len, struct token_list *out, struct dl_err *e)
{
    int kept = r->n < len - 1 ? (int)r->n : len - 1;
    out->ids = malloc((size_t)len * sizeof *out->ids);
    out->pieces = calloc((size_t)kept + 1, sizeof *out->pieces);
    out->truncated = spell(r, r->n > kept ? kept ? r->end[kept - 1] : 0 : r->spelled.n);
    if (!out->ids || !out->pieces || !out->truncated) goto nomem;
    out->n_ids = len;
    if (kept) memcpy(out->ids, r->id, (size_t)kept * sizeof *r->id);
    out->ids[kept] = T5_EOS;
    for (int i = kept + 1; i < len; i++) out->ids[i] = T5_PAD;
    for (int i = 0; i <= kept; i++) {
        out->pieces[i] = strdup(r->t->piece[out->ids[i]]);
        if (!out->pieces[i]) goto nomem;
        out->n_pieces++;
    }
    while (out->ids[out->eos] != T5_EOS) out->eos++;
    return 0;
nomem:
    return dl_fail(e, DL_ENOMEM, "no memory for a list of %d tokens", len);
}

int t5_tokens_run(const struct t5_tokens *t, const char *text, size_t bytes, int max_tokens, struct token_list *out,
                  struct dl_err *e)
{
    struct run r = {.t = t};
    struct text_u32 check = {0};
    int rc = -1;
    memset(out, 0, sizeof *out);
    if (max_tokens == 0) max_tokens = t->max_length;
    if (max_tokens < 1 || max_tokens > T5_MAX_LEN)
        return dl_fail(e, DL_EUSAGE, "token count %d is out of range: 1 to %d", max_tokens, T5_MAX_LEN);
    if (text_decode(&check, text, bytes, e) == 0 && run_text(&r, text, bytes, e) == 0)
        rc = fill_list(&r, max_tokens, out, e);
    if (rc < 0) token_list_free(out);
    text_free(&check);
    free(r.id);
    free(r.end);
    free(r.norm.p);
    free(r.spelled.p);
    free(r.node);
    return rc;
}
