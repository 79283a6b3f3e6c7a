#define _GNU_SOURCE /* qsort_r */
#include "loaders/t5_vocab.h"

#include "loaders/json_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

enum { MAX_FILE_BYTES = 64 << 20, MAX_PIECES = 1 << 20, MAX_EXTRA = 10000, DEFAULT_EXTRA = 100, DEFAULT_LEN = 512 };

static const char *const file_name[T5_NFILES] = {"spiece.model", "tokenizer_config.json", "special_tokens_map.json"};
static const char *const special_piece[3] = {"<pad>", "</s>", "<unk>"};

/* Fields of sentencepiece_model.proto. */
enum { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3, TRAINER_TYPE = 3, NORMALIZER_MAP = 2 };
enum { TYPE_NORMAL = 1, TYPE_USER = 4, TYPE_BYTE = 6, MODEL_UNIGRAM = 1 };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct loader {
    struct t5_tokens *t;
    const char *where;
    const uint8_t *file; /* start of spiece.model, for offsets in messages */
    int64_t cap;
    struct dl_err *e;
};

/* A stretch of the file being read. */
struct span {
    const uint8_t *p, *end;
};

struct field {
    uint32_t number;
    int wire;
    uint64_t value;   /* of a number */
    struct span data; /* of WIRE_BYTES */
};

static int bad_file(struct loader *l, const uint8_t *at, const char *what)
{
    return dl_fail(l->e, DL_EINPUT, "%s/%s: %s at byte %lld: damaged, or no sentencepiece model; download it again",
                   l->where, file_name[T5_SPIECE], what, (long long)(at - l->file));
}

static int read_varint(struct loader *l, struct span *s, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (s->p == s->end) return bad_file(l, s->p, "a number is cut short");
        uint8_t b = *s->p++;
        *v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) return 0;
    }
    return bad_file(l, s->p, "a number is too long");
}

/* The next field of a message: 1, 0 at its end, -1. */
static int next_field(struct loader *l, struct span *s, struct field *f)
{
    uint64_t key, n;
    if (s->p == s->end) return 0;
    const uint8_t *at = s->p;
    if (read_varint(l, s, &key) < 0) return -1;
    f->wire = (int)(key & 7);
    f->value = 0;
    if (key >> 3 == 0 || key >> 3 > 0x1fffffff) return bad_file(l, at, "a field has an impossible number");
    f->number = (uint32_t)(key >> 3);
    switch (f->wire) {
    case WIRE_VARINT: return read_varint(l, s, &f->value) < 0 ? -1 : 1;
    case WIRE_32:
    case WIRE_64:
        n = f->wire == WIRE_32 ? 4 : 8;
        if ((uint64_t)(s->end - s->p) < n) return bad_file(l, s->p, "a number is cut short");
        for (uint64_t i = 0; i < n; i++) f->value |= (uint64_t)s->p[i] << (8 * i);
        s->p += n;
        return 1;
    case WIRE_BYTES:
        if (read_varint(l, s, &n) < 0) return -1;
        if (n > (uint64_t)(s->end - s->p)) return bad_file(l, at, "a field is longer than what is left");
        f->data = (struct span){s->p, s->p + n};
        s->p += n;
        return 1;
    default: return bad_file(l, at, "a field has an unknown type");
    }
}

static int expect_wire(struct loader *l, const struct field *f, int wire, const struct span *s)
{
    return f->wire == wire ? 0 : bad_file(l, s->p, "a field has the wrong type");
}

static bool is_utf8(const uint8_t *s, size_t n)
{
    utf8proc_int32_t c;
    for (size_t i = 0; i < n;) {
        utf8proc_ssize_t k = utf8proc_iterate(s + i, (utf8proc_ssize_t)(n - i), &c);
        if (k <= 0 || c == 0) return false;
        i += (size_t)k;
    }
    return true;
}

static int add_piece(struct loader *l, const char *s, size_t n, double score)
{
    struct t5_tokens *t = l->t;
    if (t->n_pieces == MAX_PIECES)
        return dl_fail(l->e, DL_EINPUT, "%s/%s: more than %d pieces: not a T5 vocabulary", l->where,
                       file_name[T5_SPIECE], MAX_PIECES);
    if (t->n_pieces == l->cap) {
        int64_t cap = l->cap * 2 + 1024;
        char **piece = realloc(t->piece, (size_t)cap * sizeof *piece);
        if (piece) t->piece = piece;
        double *sc = realloc(t->score, (size_t)cap * sizeof *sc);
        if (sc) t->score = sc;
        if (!piece || !sc) goto nomem;
        l->cap = cap;
    }
    char *copy = malloc(n + 1);
    if (!copy) goto nomem;
    memcpy(copy, s, n);
    copy[n] = 0;
    t->score[t->n_pieces] = score;
    t->piece[t->n_pieces++] = copy;
    return 0;
nomem:
    return dl_fail(l->e, DL_ENOMEM, "no memory for the pieces of %s/%s", l->where, file_name[T5_SPIECE]);
}

static int read_piece(struct loader *l, struct span s)
{
    const uint8_t *at = s.p;
    struct field f;
    struct span text = {s.p, s.p};
    float score = 0;
    uint64_t type = TYPE_NORMAL;
    int rc;
    while ((rc = next_field(l, &s, &f)) > 0) {
        if (f.number == PIECE_TEXT) {
            if (expect_wire(l, &f, WIRE_BYTES, &s) < 0) return -1;
            text = f.data;
        } else if (f.number == PIECE_SCORE) {
            if (expect_wire(l, &f, WIRE_32, &s) < 0) return -1;
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        } else if (f.number == PIECE_TYPE) {
            if (expect_wire(l, &f, WIRE_VARINT, &s) < 0) return -1;
            type = f.value;
        }
    }
    if (rc < 0) return -1;
    size_t n = (size_t)(text.end - text.p);
    if (n == 0 || n > T5_MAX_PIECE_BYTES) return bad_file(l, at, "a piece is empty or longer than 256 bytes");
    if (!is_utf8(text.p, n)) return bad_file(l, at, "a piece is not valid UTF-8");
    if (!isfinite(score)) return bad_file(l, at, "a piece has no finite score");
    if (type == TYPE_USER || type == TYPE_BYTE)
        return dl_fail(l->e, DL_EINPUT, "%s/%s: piece %d (\"%.*s\") is %s: T5's vocabularies have none such", l->where,
                       file_name[T5_SPIECE], l->t->n_pieces, (int)n, (const char *)text.p,
                       type == TYPE_USER ? "user-defined" : "a byte piece");
    return add_piece(l, (const char *)text.p, n, score);
}

/* u32 bytes of the trie, the trie (32 bit little endian), then the strings. */
static int read_map(struct loader *l, struct span s)
{
    struct t5_tokens *t = l->t;
    size_t n = (size_t)(s.end - s.p);
    if (n == 0) return 0;
    if (n < 4) return bad_file(l, s.p, "the character map is cut short");
    uint32_t size = s.p[0] | (uint32_t)s.p[1] << 8 | (uint32_t)s.p[2] << 16 | (uint32_t)s.p[3] << 24;
    if (size < 4 || size % 4 || size > n - 4) return bad_file(l, s.p, "the character map has an impossible size");
    free(t->trie);
    free(t->norm);
    t->n_trie = size / 4;
    t->n_norm = n - 4 - size;
    t->trie = malloc(size);
    t->norm = malloc(t->n_norm + 1);
    if (!t->trie || !t->norm) return dl_fail(l->e, DL_ENOMEM, "no memory for a character map of %zu bytes", n);
    for (size_t i = 0; i < t->n_trie; i++) {
        const uint8_t *p = s.p + 4 + 4 * i;
        t->trie[i] = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }
    const uint8_t *text = s.p + 4 + size;
    for (size_t i = 0, j; i < t->n_norm; i = j + 1) {
        for (j = i; j < t->n_norm && text[j]; j++) continue;
        if (!is_utf8(text + i, j - i)) return bad_file(l, text + i, "the character map is not valid UTF-8");
    }
    memcpy(t->norm, text, t->n_norm);
    t->norm[t->n_norm] = 0;
    return 0;
}

const char *t5_map_find(const struct t5_tokens *t, const char *s, size_t n)
{
    if (!t->n_trie) return NULL;
    size_t node = 0;
    uint32_t unit = t->trie[0];
    for (size_t i = 0; i <= n; i++) {
        node ^= (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
        if (node >= t->n_trie) return NULL;
        if (i && unit & 1u << 8) {
            size_t at = t->trie[node] & 0x7fffffffu;
            /* an entry that begins inside a character (no trainer writes one) counts for nothing */
            return at <= t->n_norm && ((unsigned char)t->norm[at] & 0xc0) != 0x80 ? t->norm + at : NULL;
        }
        unsigned char c = i < n ? (unsigned char)s[i] : 0;
        if (!c) return NULL;
        node ^= c;
        if (node >= t->n_trie) return NULL;
        unit = t->trie[node];
        if ((unit & (1u << 31 | 0xff)) != c) return NULL;
    }
    return NULL;
}

static int read_model(struct loader *l, const char *data, size_t bytes)
{
    static const char lfs[] = "version https://git-lfs";
    struct span s = {(const uint8_t *)data, (const uint8_t *)data + bytes}, sub;
    struct field f, g;
    int rc;
    l->file = s.p;
    if (bytes >= sizeof lfs - 1 && !memcmp(data, lfs, sizeof lfs - 1))
        return dl_fail(l->e, DL_EINPUT, "%s/%s: a Git LFS pointer, not the model itself: run git lfs pull", l->where,
                       file_name[T5_SPIECE]);
    while ((rc = next_field(l, &s, &f)) > 0) {
        if (f.number < MODEL_PIECE || f.number > MODEL_NORMALIZER) continue;
        if (expect_wire(l, &f, WIRE_BYTES, &s) < 0) return -1;
        if (f.number == MODEL_PIECE) {
            if (read_piece(l, f.data) < 0) return -1;
            continue;
        }
        sub = f.data;
        while ((rc = next_field(l, &sub, &g)) > 0) {
            if (f.number == MODEL_TRAINER && g.number == TRAINER_TYPE) {
                if (expect_wire(l, &g, WIRE_VARINT, &sub) < 0) return -1;
                if (g.value != MODEL_UNIGRAM)
                    return dl_fail(l->e, DL_EINPUT, "%s/%s: not a unigram model, so not T5's", l->where,
                                   file_name[T5_SPIECE]);
            } else if (f.number == MODEL_NORMALIZER && g.number == NORMALIZER_MAP) {
                if (expect_wire(l, &g, WIRE_BYTES, &sub) < 0 || read_map(l, g.data) < 0) return -1;
            }
        }
        if (rc < 0) return -1;
    }
    if (rc < 0) return -1;
    for (int i = 0; i < 3; i++)
        if (i >= l->t->n_pieces || strcmp(l->t->piece[i], special_piece[i]))
            return dl_fail(l->e, DL_EINPUT, "%s/%s: piece %d is %s%s%s, T5's is \"%s\": not a T5 vocabulary", l->where,
                           file_name[T5_SPIECE], i, i < l->t->n_pieces ? "\"" : "",
                           i < l->t->n_pieces ? l->t->piece[i] : "missing", i < l->t->n_pieces ? "\"" : "",
                           special_piece[i]);
    return 0;
}

/* "<extra_id_7>" is 7; anything else -1. */
static int extra_number(const char *s)
{
    int n = 0, used = 0;
    char again[40];
    if (sscanf(s, "<extra_id_%5d>%n", &n, &used) != 1 || n < 0) return -1;
    snprintf(again, sizeof again, "<extra_id_%d>", n);
    return strcmp(s, again) ? -1 : n;
}

static int check_token(struct loader *l, enum t5_file which, const char *name, const json_t *v, const char *want)
{
    const char *s = json_is_object(v) ? json_string_value(json_object_get(v, "content")) : json_string_value(v);
    char got[80];
    if (s && (want ? !strcmp(s, want) : extra_number(s) >= 0)) return 0;
    for (int i = 0; i < 3; i++)
        if (!want && s && !strcmp(s, special_piece[i])) return 0;
    return dl_fail(l->e, DL_EINPUT,
                   "%s/%s: %s is %s; only T5's own special tokens (<pad>, </s>, <unk>, <extra_id_0> "
                   "and so on) are supported",
                   l->where, file_name[which], name, js_describe(v, got, sizeof got));
}

static int read_config(struct loader *l, enum t5_file which, const char *data, size_t bytes)
{
    static const char *const name[3] = {"pad_token", "eos_token", "unk_token"};
    static const char *const more[2] = {"additional_special_tokens", "extra_special_tokens"};
    char label[512];
    snprintf(label, sizeof label, "%s/%s", l->where, file_name[which]);
    json_t *o = js_parse(data, bytes, label, l->e), *v;
    const char *key;
    size_t i;
    int rc = -1;
    if (!o) return -1;
    if (!json_is_object(o)) {
        dl_fail(l->e, DL_EINPUT, "%s: not a JSON object", label);
        goto done;
    }
    for (int k = 0; k < 3; k++)
        if ((v = json_object_get(o, name[k])) && check_token(l, which, name[k], v, special_piece[k]) < 0) goto done;
    for (int k = 0; k < 2; k++) {
        json_t *list = json_object_get(o, more[k]);
        json_array_foreach(list, i, v)
        {
            if (check_token(l, which, more[k], v, NULL) < 0) goto done;
        }
    }
    if (which == T5_CONFIG) {
        json_object_foreach(json_object_get(o, "added_tokens_decoder"), key, v)
        {
            if (check_token(l, which, "added_tokens_decoder", v, NULL) < 0) goto done;
        }
        v = json_object_get(o, "extra_ids");
        if (v && (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > MAX_EXTRA)) {
            dl_fail(l->e, DL_EINPUT, "%s: extra_ids is not a number from 0 to %d", label, MAX_EXTRA);
            goto done;
        }
        if (v) l->t->n_extra = (int)json_integer_value(v);
        v = json_object_get(o, "model_max_length");
        if (json_is_number(v) && json_number_value(v) >= 1 && json_number_value(v) <= T5_MAX_LEN)
            l->t->max_length = (int)json_number_value(v);
    }
    rc = 0;
done:
    json_decref(o);
    return rc;
}

static int compare_pieces(const void *a, const void *b, void *arg)
{
    char **piece = arg;
    return strcmp(piece[*(const int32_t *)a], piece[*(const int32_t *)b]); /* compares bytes as unsigned */
}

static int sort_pieces(struct loader *l)
{
    struct t5_tokens *t = l->t;
    double least = t->score[0];
    for (int i = t->n_extra - 1; i >= 0; i--) {
        char name[40];
        snprintf(name, sizeof name, "<extra_id_%d>", i);
        if (add_piece(l, name, strlen(name), 0) < 0) return -1;
    }
    t->order = malloc((size_t)t->n_pieces * sizeof *t->order);
    if (!t->order) return dl_fail(l->e, DL_ENOMEM, "no memory for %d pieces", t->n_pieces);
    for (int i = 0; i < t->n_pieces; i++) t->order[i] = i;
    qsort_r(t->order, (size_t)t->n_pieces, sizeof *t->order, compare_pieces, t->piece);
    for (int i = 0; i < t->n_pieces; i++) {
        if (i && !strcmp(t->piece[t->order[i - 1]], t->piece[t->order[i]]))
            return dl_fail(l->e, DL_EINPUT, "%s/%s: piece \"%s\" is there twice (ids %d and %d)", l->where,
                           file_name[T5_SPIECE], t->piece[t->order[i]], t->order[i - 1], t->order[i]);
        t->first[(unsigned char)t->piece[t->order[i]][0] + 1]++;
        if (t->score[i] < least) least = t->score[i];
    }
    for (int c = 0; c < 256; c++) t->first[c + 1] += t->first[c];
    t->unk_score = least - 10;
    return 0;
}

int t5_tokens_parse(struct t5_tokens **out, const struct t5_files *files, const char *where, struct dl_err *e)
{
    struct loader l = {.where = where, .e = e};
    *out = NULL;
    if (!files->file[T5_SPIECE].data)
        return dl_fail(e, DL_EINPUT,
                       "%s/%s: missing. A T5 tokenizer needs it (tokenizer.json is not read): copy it from the "
                       "published model's folder of the same name",
                       where, file_name[T5_SPIECE]);
    l.t = calloc(1, sizeof *l.t);
    if (!l.t) return dl_fail(e, DL_ENOMEM, "no memory for a tokenizer");
    l.t->max_length = DEFAULT_LEN;
    l.t->n_extra = DEFAULT_EXTRA;
    if (read_model(&l, files->file[T5_SPIECE].data, files->file[T5_SPIECE].bytes) < 0) goto fail;
    for (int k = T5_CONFIG; k < T5_NFILES; k++)
        if (files->file[k].data && read_config(&l, k, files->file[k].data, files->file[k].bytes) < 0) goto fail;
    if (sort_pieces(&l) < 0) goto fail;
    *out = l.t;
    return 0;
fail:
    t5_tokens_close(l.t);
    return -1;
}

int t5_tokens_open(struct t5_tokens **out, const char *dir, struct dl_err *e)
{
    struct t5_files f = {0};
    char *data[T5_NFILES] = {0};
    int rc = -1;
    *out = NULL;
    for (int k = 0; k < T5_NFILES; k++) {
        char path[4096];
        if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, file_name[k]) >= sizeof path) {
            dl_fail(e, DL_EUSAGE, "path is too long: %.100s...", dir);
            goto done;
        }
        if (access(path, F_OK) != 0) continue;
        if (js_slurp(path, MAX_FILE_BYTES, &data[k], &f.file[k].bytes, e) < 0) goto done;
        f.file[k].data = data[k];
    }
    rc = t5_tokens_parse(out, &f, dir, e);
done:
    for (int k = 0; k < T5_NFILES; k++) free(data[k]);
    return rc;
}

void t5_tokens_close(struct t5_tokens *t)
{
    if (!t) return;
    for (int i = 0; i < t->n_pieces; i++) free(t->piece[i]);
    free(t->piece);
    free(t->score);
    free(t->order);
    free(t->trie);
    free(t->norm);
    free(t);
}

int t5_tokens_vocab_size(const struct t5_tokens *t) { return t->n_pieces; }
int t5_tokens_max_length(const struct t5_tokens *t) { return t->max_length; }
