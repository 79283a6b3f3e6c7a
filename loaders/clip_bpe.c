#include "loaders/clip_vocab.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* A candidate of the merge queue: the pair that begins at symbol `at`. */
struct pair {
    int32_t rank, at, made;
};

struct run {
    const struct clip_bpe *b;
    enum text_mode mode;
    int32_t *id; /* [n] ids so far, without start and end */
    int64_t n, cap;
    /* one word being merged */
    int32_t *sym, *prev, *next; /* [word_cap] symbol ids and their neighbours, -1 at the ends */
    struct pair *queue;         /* [3 * word_cap] binary heap, lowest rank and then leftmost first */
    int64_t word_cap, n_queue;
    pcre2_match_data *match;
    struct text_u32 text;
};

static int emit(struct run *r, int32_t id, struct dl_err *e)
{
    if (r->n == r->cap) {
        int64_t cap = r->cap * 2 + 128;
        int32_t *p = realloc(r->id, (size_t)cap * sizeof *p);
        if (!p) return dl_fail(e, DL_ENOMEM, "no memory for %lld tokens", (long long)cap);
        r->id = p;
        r->cap = cap;
    }
    r->id[r->n++] = id < 0 ? r->b->unk : id;
    return 0;
}

static bool is_before(struct pair a, struct pair b) { return a.rank != b.rank ? a.rank < b.rank : a.at < b.at; }

/* Queues the pair that begins at symbol `at`, if there is a merge for it. */
static void queue_pair(struct run *r, int32_t at)
{
    if (at < 0 || r->next[at] < 0) return;
    const struct clip_merge *m = clip_find_merge(r->b, r->sym[at], r->sym[r->next[at]]);
    if (!m || (r->mode == TEXT_HF4 && m->rank >= CLIP_HF4_MERGES)) return;
    struct pair p = {m->rank, at, m->made};
    int64_t i = r->n_queue++;
    for (int64_t up; i && is_before(p, r->queue[up = (i - 1) / 2]); i = up) r->queue[i] = r->queue[up];
    r->queue[i] = p;
}

static struct pair unqueue(struct run *r)
{
    struct pair top = r->queue[0], last = r->queue[--r->n_queue];
    int64_t i = 0;
    for (int64_t down; (down = 2 * i + 1) < r->n_queue; i = down) {
        if (down + 1 < r->n_queue && is_before(r->queue[down + 1], r->queue[down])) down++;
        if (!is_before(r->queue[down], last)) break;
        r->queue[i] = r->queue[down];
    }
    r->queue[i] = last;
    return top;
}

static int reserve_word(struct run *r, int64_t n, struct dl_err *e)
{
    if (n <= r->word_cap) return 0;
    int64_t cap = n + n / 2 + 64;
    free(r->sym);
    free(r->queue);
    r->word_cap = 0;
    r->sym = malloc((size_t)cap * 3 * sizeof *r->sym);
    r->queue = malloc((size_t)cap * 3 * sizeof *r->queue); /* at most n-1 pairs, and two more for each merge */
    if (!r->sym || !r->queue) return dl_fail(e, DL_ENOMEM, "no memory for a word of %lld bytes", (long long)n);
    r->prev = r->sym + cap;
    r->next = r->sym + 2 * cap;
    r->word_cap = cap;
    return 0;
}

/* One word of n bytes, n > 0. */
static int merge_word(struct run *r, const char *word, int64_t n, struct dl_err *e)
{
    if (reserve_word(r, n, e) < 0) return -1;
    for (int64_t i = 0; i < n; i++) {
        r->sym[i] = r->b->byte_id[i == n - 1][(unsigned char)word[i]];
        r->prev[i] = (int32_t)i - 1;
        r->next[i] = i == n - 1 ? -1 : (int32_t)i + 1;
    }
    r->n_queue = 0;
    for (int64_t i = 0; i < n; i++) queue_pair(r, (int32_t)i);
    while (r->n_queue) {
        struct pair p = unqueue(r);
        int32_t right = r->sym[p.at] == -2 ? -1 : r->next[p.at];
        if (right < 0) continue; /* the pair is gone: its left symbol was merged into another, or is now the last */
        const struct clip_merge *m = clip_find_merge(r->b, r->sym[p.at], r->sym[right]);
        if (!m || m->rank != p.rank) continue; /* it has changed since */
        r->sym[p.at] = p.made;
        r->sym[right] = -2;
        r->next[p.at] = r->next[right];
        if (r->next[right] >= 0) r->prev[r->next[right]] = p.at;
        queue_pair(r, r->prev[p.at]);
        queue_pair(r, p.at);
    }
    for (int32_t i = 0; i >= 0; i = r->next[i])
        if (emit(r, r->sym[i], e) < 0) return -1;
    return 0;
}

/* "<|startoftext|>" or "<|endoftext|>" where the word splitter finds one that was not cut out as a special token. In
 * hf4 it stands for itself; in hf5 a second splitter (ByteLevel's) takes it apart into punctuation, letters,
 * punctuation. */
static int typed_special(struct run *r, const char *word, size_t n, struct dl_err *e)
{
    if (r->mode == TEXT_HF4) return emit(r, r->b->typed[word[2] == 'e'], e);
    if (merge_word(r, word, 2, e) < 0) return -1;
    if (merge_word(r, word + 2, (int64_t)n - 4, e) < 0) return -1;
    return merge_word(r, word + n - 2, 2, e);
}

static bool is_typed_special(const char *word, size_t n)
{
    return (n == 15 && !memcmp(word, "<|startoftext|>", 15)) || (n == 13 && !memcmp(word, "<|endoftext|>", 13));
}

/* Cleaned text to words. */
static int split_words(struct run *r, const char *s, size_t bytes, struct dl_err *e)
{
    PCRE2_SIZE *o = pcre2_get_ovector_pointer(r->match);
    for (size_t at = 0; at < bytes; at = o[1]) {
        int rc = pcre2_match(r->b->words[r->mode], (PCRE2_SPTR)s, bytes, at, PCRE2_NO_UTF_CHECK, r->match, NULL);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return dl_fail(e, DL_EFAIL, "splitting the text into words failed (PCRE2 error %d)", rc);
        const char *word = s + o[0];
        size_t n = o[1] - o[0];
        if (is_typed_special(word, n) ? typed_special(r, word, n, e) < 0 : merge_word(r, word, (int64_t)n, e) < 0)
            return -1;
    }
    return 0;
}

/* The first special token at or behind `at`; at one place the longest. Returns its index, or -1. */
static int find_mark(const struct clip_marks *m, const char *s, size_t bytes, size_t at, size_t *where)
{
    for (; m->n && at < bytes; at++) {
        int c = (unsigned char)s[at];
        for (int i = m->first[c]; i < m->first[c + 1]; i++)
            if (m->mark[i].bytes <= bytes - at && !memcmp(m->mark[i].text, s + at, m->mark[i].bytes)) {
                *where = at;
                return i;
            }
    }
    return -1;
}

/* Cuts the special tokens out of s, emits their ids, and hands what is between them to `part`. */
static int cut_marks(struct run *r, const struct clip_marks *m, const char *s, size_t bytes,
                     int (*part)(struct run *, const char *, size_t, struct dl_err *), struct dl_err *e)
{
    for (size_t at = 0; at < bytes;) {
        size_t where = bytes;
        int i = find_mark(m, s, bytes, at, &where);
        if (where > at && part(r, s + at, where - at, e) < 0) return -1;
        if (i < 0) break;
        if (emit(r, m->mark[i].id, e) < 0) return -1;
        at = where + m->mark[i].bytes;
    }
    return 0;
}

static int clean_part(struct run *r, const char *s, size_t bytes, struct dl_err *e)
{
    static const struct clip_marks none;
    char *clean = NULL;
    if (text_decode(&r->text, s, bytes, e) < 0 || text_clean(&r->text, r->mode, e) < 0 ||
        text_encode(&r->text, &clean, &bytes, e) < 0)
        return -1;
    int rc = cut_marks(r, r->mode == TEXT_HF5 ? &r->b->clean : &none, clean, bytes, split_words, e);
    free(clean);
    return rc;
}

/* ids from..to-1 as the text that they spell: letters back to bytes, "</w>" to a space, stripped. Malloc'd. */
static char *spell(const struct clip_bpe *b, const int32_t *id, int64_t from, int64_t to)
{
    size_t len = 1, at = 0;
    for (int64_t i = from; i < to; i++) len += strlen(b->piece[id[i]]) + 1;
    char *s = malloc(len), *out = malloc(3 * len); /* U+FFFD for a byte that is no UTF-8: three bytes */
    if (!s || !out) goto fail;
    int16_t byte_of[0x144];
    memset(byte_of, -1, sizeof byte_of);
    for (int i = 0; i < 256; i++) byte_of[clip_letter(i)] = (int16_t)i;
    for (int64_t i = from; i < to; i++) {
        const char *p = b->piece[id[i]];
        size_t k = strlen(p);
        bool ends = k >= 4 && !memcmp(p + k - 4, "</w>", 4), special = b->special[id[i]];
        if (special) {
            memcpy(s + at, p, k);
            at += k;
        } else {
            const char *stop = p + k - (ends ? 4 : 0);
            while (p < stop) {
                utf8proc_int32_t c;
                utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)p, stop - p, &c);
                if (used < 1) used = 1, c = '?';
                if (c >= 0 && c < 0x144 && byte_of[c] >= 0) s[at++] = (char)byte_of[c];
                p += used;
            }
        }
        if (special || ends) s[at++] = ' ';
    }
    while (at && s[at - 1] == ' ') at--;
    size_t w = 0;
    for (size_t i = 0; i < at;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)s + i, (utf8proc_ssize_t)(at - i), &c);
        if (used < 1 || c == 0) used = 1, c = 0xfffd;
        w += (size_t)utf8proc_encode_char(c, (uint8_t *)out + w);
        i += (size_t)used;
    }
    out[w] = 0;
    free(s);
    return out;
fail:
    free(s);
    free(out);
    return NULL;
}

static int fill_list(const struct run *r, int len, struct token_list *out, struct dl_err *e)
{
    const struct clip_bpe *b = r->b;
    int kept = r->n < len - 2 ? (int)r->n : len - 2;
    out->ids = malloc((size_t)len * sizeof *out->ids);
    out->pieces = calloc((size_t)kept + 2, sizeof *out->pieces);
    out->truncated = spell(b, r->id, kept, r->n);
    if (!out->ids || !out->pieces || !out->truncated) goto nomem;
    out->n_ids = len;
    out->ids[0] = b->bos;
    if (kept) memcpy(out->ids + 1, r->id, (size_t)kept * sizeof *r->id);
    out->ids[kept + 1] = b->eos;
    for (int i = kept + 2; i < len; i++) out->ids[i] = b->pad;
    for (int i = 0; i < kept + 2; i++) {
        out->pieces[i] = strdup(b->piece[out->ids[i]]);
        if (!out->pieces[i]) goto nomem;
        out->n_pieces++;
    }
    while (out->ids[out->eos] != b->eos) out->eos++;
    return 0;
nomem:
    return dl_fail(e, DL_ENOMEM, "no memory for a list of %d tokens", len);
}

int clip_bpe_run(const struct clip_bpe *b, const char *text, size_t bytes, enum text_mode mode, int max_len,
                 struct token_list *out, struct dl_err *e)
{
    struct run r = {.b = b, .mode = mode};
    int rc = -1;
    memset(out, 0, sizeof *out);
    if (max_len == 0) max_len = b->max_length;
    if (max_len < 2 || max_len > CLIP_MAX_LEN)
        return dl_fail(e, DL_EUSAGE, "token count %d is out of range: 2 to %d", max_len, CLIP_MAX_LEN);
    r.match = pcre2_match_data_create(1, NULL);
    if (!r.match) {
        dl_fail(e, DL_ENOMEM, "no memory to split a text into words");
        goto done;
    }
    /* The whole text first, so that an error names the byte in it. */
    if (text_decode(&r.text, text, bytes, e) < 0) goto done;
    if (cut_marks(&r, mode == TEXT_HF4 ? &b->raw : &b->raw5, text, bytes, clean_part, e) < 0) goto done;
    rc = fill_list(&r, max_len, out, e);
done:
    if (rc < 0) token_list_free(out);
    pcre2_match_data_free(r.match);
    text_free(&r.text);
    free(r.id);
    free(r.sym);
    free(r.queue);
    return rc;
}

int clip_bpe_pad_id(const struct clip_bpe *b) { return b->pad; }
int clip_bpe_bos_id(const struct clip_bpe *b) { return b->bos; }
int clip_bpe_eos_id(const struct clip_bpe *b) { return b->eos; }
int clip_bpe_vocab_size(const struct clip_bpe *b) { return b->n_pieces; }
int clip_bpe_max_length(const struct clip_bpe *b) { return b->max_length; }
