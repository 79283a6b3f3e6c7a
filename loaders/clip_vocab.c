#include "loaders/clip_vocab.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const file_name[CLIP_NFILES] = {"vocab.json", "merges.txt", "tokenizer_config.json",
                                                   "special_tokens_map.json", "added_tokens.json"};

enum { MAX_FILE_BYTES = 64 << 20, MAX_PIECES = 4 << 20, MAX_ADDED = 65536 };

/* What the references' tables have beyond Unicode 14, as PCRE2 classes; made by `tools/ref/tokens_clip.py ranges`. */
/* clang-format off */
#define LETTERS_HF5 \
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}" \
    "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}" \
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}" \
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}" \
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}" \
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NUMBERS_HF5 \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}" \
    "\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"
#define LETTERS_HF4 \
    "\\x{558}\\x{58b}-\\x{58c}\\x{88f}\\x{c5c}\\x{cdc}\\x{1c89}-\\x{1c8a}\\x{208f}\\x{209d}-\\x{209f}" \
    "\\x{a7cb}-\\x{a7cf}\\x{a7d2}\\x{a7d4}\\x{a7da}-\\x{a7dd}\\x{a7e2}\\x{a7f1}\\x{ab6c}-\\x{ab6d}" \
    "\\x{105c0}-\\x{105f3}\\x{107bb}-\\x{107bf}\\x{10940}-\\x{10959}\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}" \
    "\\x{10ec2}-\\x{10ec7}\\x{10ed9}-\\x{10eee}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}" \
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11b0a}\\x{11bc0}-\\x{11be0}\\x{11db0}-\\x{11ddb}" \
    "\\x{11df1}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}" \
    "\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{16ea0}-\\x{16eb8}\\x{16ebb}-\\x{16ed3}" \
    "\\x{16ff2}-\\x{16ff3}\\x{187f8}-\\x{187ff}\\x{18cd6}-\\x{18cda}\\x{18cff}\\x{18d09}-\\x{18d20}" \
    "\\x{18d80}-\\x{18df2}\\x{18e00}-\\x{19191}\\x{191a0}-\\x{191d2}\\x{1b123}-\\x{1b128}\\x{1b132}\\x{1b155}" \
    "\\x{1b168}\\x{1d6a6}\\x{1df1f}-\\x{1df81}\\x{1df90}-\\x{1df96}\\x{1dfcd}-\\x{1dfff}\\x{1e030}-\\x{1e06d}" \
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{1e6c0}-\\x{1e6de}\\x{1e6e0}-\\x{1e6e2}" \
    "\\x{1e6e4}-\\x{1e6e5}\\x{1e6e7}-\\x{1e6ed}\\x{1e6f0}-\\x{1e6f4}\\x{1e6fe}-\\x{1e6ff}\\x{2b739}-\\x{2b73f}" \
    "\\x{2b81e}\\x{2cea2}-\\x{2cead}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{33479}\\x{3d000}-\\x{3fc3f}"
#define NUMBERS_HF4 \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11de0}-\\x{11de9}\\x{11f50}-\\x{11f59}" \
    "\\x{1246f}\\x{12475}-\\x{1247f}\\x{12550}-\\x{12686}\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}" \
    "\\x{16ff4}-\\x{16ff6}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"
#define SPACES "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPECIALS "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d"
#define CLASSES(l, n, none) "[\\p{L}" l "]++|[\\p{N}" n "]|[^" SPACES "\\p{L}\\p{N}" l n none "]++"
/* clang-format on */

/* hf4 matches regardless of case. Only the contractions notice, and U+0345: a mark whose capital is a letter, which
 * regex therefore takes neither for a letter nor for punctuation and drops. */
static const char *const word_pattern[2] = {
    [TEXT_HF5] = SPECIALS "|" CLASSES(LETTERS_HF5, NUMBERS_HF5, ""),
    [TEXT_HF4] = "(?i:" SPECIALS ")|" CLASSES(LETTERS_HF4, NUMBERS_HF4, "\\x{345}"),
};

/* A special token as the files declare it. */
struct added {
    char *text;
    int32_t id;      /* -1 until looked up */
    bool normalized; /* hf5 looks for it in the cleaned text */
};

struct loader {
    struct clip_bpe *b;
    const char *where; /* folder, for messages */
    json_t *json[CLIP_NFILES];
    struct added *added; /* [n_added] in the order of declaration */
    int n_added;
    bool from_decoder; /* tokenizer_config.json has added_tokens_decoder: special_tokens_map.json does not count */
    struct dl_err *e;
};

int32_t clip_letter(int byte)
{
    if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae) return byte;
    if (byte <= 0x20) return 0x100 + byte;
    if (byte <= 0xa0) return 0x121 + byte - 0x7f;
    return 0x143;
}

static uint32_t hash_bytes(const char *s, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h ^ h >> 15;
}

static uint32_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

int32_t clip_find_piece(const struct clip_bpe *b, const char *s, size_t bytes)
{
    for (uint32_t i = hash_bytes(s, bytes) & b->piece_mask;; i = (i + 1) & b->piece_mask) {
        int32_t id = b->piece_slot[i];
        if (id < 0 || (strlen(b->piece[id]) == bytes && !memcmp(b->piece[id], s, bytes))) return id;
    }
}

const struct clip_merge *clip_find_merge(const struct clip_bpe *b, int32_t left, int32_t right)
{
    for (uint32_t i = hash_pair(left, right) & b->merge_mask;; i = (i + 1) & b->merge_mask) {
        int32_t k = b->merge_slot[i];
        if (k < 0) return NULL;
        if (b->merge[k].left == left && b->merge[k].right == right) return &b->merge[k];
    }
}

/* An empty table with room for n entries at half load. */
static int32_t *new_slots(int64_t n, uint32_t *mask)
{
    uint32_t size = 64;
    while ((int64_t)size < 2 * n) size *= 2;
    int32_t *slot = malloc(size * sizeof *slot);
    if (slot) memset(slot, -1, size * sizeof *slot);
    *mask = size - 1;
    return slot;
}

static int out_of_memory(struct loader *l)
{
    return dl_fail(l->e, DL_ENOMEM, "%s: no memory for the tokenizer", l->where);
}

static int load_json(struct loader *l, const struct clip_files *f, enum clip_file k)
{
    json_error_t je;
    if (!f->file[k].text) return 0;
    l->json[k] = json_loadb(f->file[k].text, f->file[k].bytes, JSON_REJECT_DUPLICATES, &je);
    if (!l->json[k])
        return dl_fail(l->e, DL_EINPUT, "%s/%s: not valid JSON: line %d, byte %d: %s", l->where, file_name[k], je.line,
                       je.position, je.text);
    if (!json_is_object(l->json[k]))
        return dl_fail(l->e, DL_EINPUT, "%s/%s: a JSON object is expected", l->where, file_name[k]);
    return 0;
}

static int load_vocab(struct loader *l)
{
    struct clip_bpe *b = l->b;
    size_t n = json_object_size(l->json[CLIP_VOCAB]);
    const char *key;
    json_t *v;
    if (n < 1 || n > MAX_PIECES)
        return dl_fail(l->e, DL_EINPUT, "%s/vocab.json: %zu pieces, expected 1 to %d", l->where, n, MAX_PIECES);
    b->piece = calloc(n, sizeof *b->piece);
    b->piece_slot = new_slots((int64_t)n, &b->piece_mask);
    if (!b->piece || !b->piece_slot) return out_of_memory(l);
    b->n_vocab = b->n_pieces = (int)n;
    json_object_foreach(l->json[CLIP_VOCAB], key, v)
    {
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= b->n_vocab)
            return dl_fail(l->e, DL_EINPUT, "%s/vocab.json: piece \"%.80s\": its id must be a number from 0 to %d",
                           l->where, key, b->n_vocab - 1);
        if (!*key) return dl_fail(l->e, DL_EINPUT, "%s/vocab.json: id %d has an empty piece", l->where, (int)id);
        if (b->piece[id])
            return dl_fail(l->e, DL_EINPUT, "%s/vocab.json: id %d belongs to two pieces, \"%.80s\" and \"%.80s\"",
                           l->where, (int)id, b->piece[id], key);
        b->piece[id] = strdup(key);
        if (!b->piece[id]) return out_of_memory(l);
        uint32_t i = hash_bytes(key, strlen(key)) & b->piece_mask;
        while (b->piece_slot[i] >= 0) i = (i + 1) & b->piece_mask;
        b->piece_slot[i] = (int32_t)id;
    }
    for (int i = 0; i < 256; i++) {
        int32_t c = clip_letter(i);
        char s[8];
        size_t k = 0;
        if (c < 0x80) {
            s[k++] = (char)c;
        } else {
            s[k++] = (char)(0xc0 | c >> 6);
            s[k++] = (char)(0x80 | (c & 0x3f));
        }
        memcpy(s + k, "</w>", 4);
        b->byte_id[0][i] = clip_find_piece(b, s, k);
        b->byte_id[1][i] = clip_find_piece(b, s, k + 4);
    }
    return 0;
}

static int add_merge(struct loader *l, const char *line, size_t n, int number)
{
    struct clip_bpe *b = l->b;
    const char *gap = memchr(line, ' ', n);
    size_t nl = gap ? (size_t)(gap - line) : n, nr = gap ? n - nl - 1 : 0;
    if (!nl || !nr || memchr(gap + 1, ' ', nr) || memchr(line, 0, n))
        return dl_fail(l->e, DL_EINPUT, "%s/merges.txt: line %d: two pieces with one space between are expected",
                       l->where, number);
    const char *part[2] = {line, gap + 1};
    size_t size[2] = {nl, nr};
    int32_t id[2];
    for (int i = 0; i < 2; i++) {
        id[i] = clip_find_piece(b, part[i], size[i]);
        if (id[i] < 0)
            return dl_fail(l->e, DL_EINPUT, "%s/merges.txt: line %d: piece \"%.*s\" is not in vocab.json", l->where,
                           number, (int)(size[i] < 80 ? size[i] : 80), part[i]);
    }
    char *both = malloc(nl + nr);
    if (!both) return out_of_memory(l);
    memcpy(both, line, nl);
    memcpy(both + nl, gap + 1, nr);
    int32_t made = clip_find_piece(b, both, nl + nr);
    free(both);
    if (made < 0)
        return dl_fail(l->e, DL_EINPUT, "%s/merges.txt: line %d: what \"%.*s\" makes is not in vocab.json", l->where,
                       number, (int)(n < 80 ? n : 80), line);
    const struct clip_merge *twin = clip_find_merge(b, id[0], id[1]);
    if (twin)
        return dl_fail(l->e, DL_EINPUT, "%s/merges.txt: line %d repeats line %d", l->where, number, twin->rank + 2);
    b->merge[b->n_merges] = (struct clip_merge){id[0], id[1], made, b->n_merges};
    uint32_t i = hash_pair(id[0], id[1]) & b->merge_mask;
    while (b->merge_slot[i] >= 0) i = (i + 1) & b->merge_mask;
    b->merge_slot[i] = b->n_merges++;
    return 0;
}

static int load_merges(struct loader *l, const char *s, size_t bytes)
{
    struct clip_bpe *b = l->b;
    int64_t lines = 1;
    for (size_t i = 0; i < bytes; i++) lines += s[i] == '\n';
    if (lines > MAX_PIECES) return dl_fail(l->e, DL_EINPUT, "%s/merges.txt: more than %d lines", l->where, MAX_PIECES);
    b->merge = calloc((size_t)lines, sizeof *b->merge);
    b->merge_slot = new_slots(lines, &b->merge_mask);
    if (!b->merge || !b->merge_slot) return out_of_memory(l);
    while (bytes && (s[bytes - 1] == '\n' || s[bytes - 1] == '\r' || s[bytes - 1] == ' ')) bytes--;
    if (bytes < 8 || memcmp(s, "#version", 8) != 0)
        return dl_fail(l->e, DL_EINPUT,
                       "%s/merges.txt: line 1 must begin with \"#version\" (transformers skips that line)", l->where);
    int number = 1;
    for (const char *end = s + bytes; s; number++) {
        const char *stop = memchr(s, '\n', (size_t)(end - s));
        size_t n = (size_t)((stop ? stop : end) - s);
        if (n && s[n - 1] == '\r') n--;
        if (number > 1 && add_merge(l, s, n, number) < 0) return -1;
        s = stop ? stop + 1 : NULL;
    }
    return 0;
}

/* Declares a special token; a later declaration of the same text replaces the flag, as in transformers 5. */
static int declare(struct loader *l, const char *text, int32_t id, bool normalized, const char *file)
{
    if (!*text) return dl_fail(l->e, DL_EINPUT, "%s/%s: a special token is empty", l->where, file);
    for (int i = 0; i < l->n_added; i++)
        if (!strcmp(l->added[i].text, text)) {
            if (id >= 0 && l->added[i].id >= 0 && l->added[i].id != id)
                return dl_fail(l->e, DL_EINPUT, "%s/%s: token \"%.80s\" has two ids, %d and %d", l->where, file, text,
                               l->added[i].id, id);
            if (id >= 0) l->added[i].id = id;
            l->added[i].normalized = normalized;
            return 0;
        }
    if (l->n_added == MAX_ADDED)
        return dl_fail(l->e, DL_EINPUT, "%s/%s: more than %d added tokens", l->where, file, MAX_ADDED);
    if (!(l->n_added & (l->n_added - 1))) { /* grows at powers of two */
        struct added *p = realloc(l->added, (size_t)(l->n_added ? 2 * l->n_added : 1) * sizeof *p);
        if (!p) return out_of_memory(l);
        l->added = p;
    }
    char *copy = strdup(text);
    if (!copy) return out_of_memory(l);
    l->added[l->n_added++] = (struct added){copy, id, normalized};
    return 0;
}

static bool is_true(const json_t *o, const char *key) { return json_is_true(json_object_get(o, key)); }

/* A token written as a string or as an object with "content". */
static int read_token(struct loader *l, const json_t *v, const char *file, const char *key, const char **text,
                      bool *normalized)
{
    const json_t *flag = json_is_object(v) ? json_object_get(v, "normalized") : NULL;
    *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    if (!*text)
        return dl_fail(l->e, DL_EINPUT, "%s/%s: %s is neither a string nor a token with content", l->where, file, key);
    *normalized = flag ? json_is_true(flag) : json_is_object(v) && !is_true(v, "special");
    if (json_is_object(v))
        for (int i = 0; i < 3; i++) {
            static const char *const refused[] = {"lstrip", "rstrip", "single_word"};
            if (is_true(v, refused[i]))
                return dl_fail(l->e, DL_EINPUT,
                               "%s/%s: token \"%.80s\" has %s, which is not supported: set it to false", l->where, file,
                               *text, refused[i]);
        }
    return 0;
}

static int load_decoder(struct loader *l)
{
    const char *key, *text;
    bool normalized;
    json_t *v, *o = json_object_get(l->json[CLIP_CONFIG], "added_tokens_decoder");
    l->from_decoder = json_is_object(o);
    json_object_foreach(o, key, v)
    {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        if (errno || *end || end == key || id < 0 || id >= MAX_PIECES + MAX_ADDED)
            return dl_fail(l->e, DL_EINPUT, "%s/%s: added_tokens_decoder: \"%.80s\" is not an id", l->where,
                           file_name[CLIP_CONFIG], key);
        if (read_token(l, v, file_name[CLIP_CONFIG], "added_tokens_decoder", &text, &normalized) < 0 ||
            declare(l, text, (int32_t)id, normalized, file_name[CLIP_CONFIG]) < 0)
            return -1;
    }
    return 0;
}

static int load_added(struct loader *l)
{
    const char *key;
    json_t *v;
    if (l->from_decoder) return 0;
    json_object_foreach(l->json[CLIP_ADDED], key, v)
    {
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= MAX_PIECES + MAX_ADDED)
            return dl_fail(l->e, DL_EINPUT, "%s/%s: token \"%.80s\" has no valid id", l->where, file_name[CLIP_ADDED],
                           key);
        if (declare(l, key, (int32_t)id, true, file_name[CLIP_ADDED]) < 0) return -1;
    }
    return 0;
}

/* The named special tokens (role: bos_token, ...), declared in transformers' order; sets `name` to the text of each. */
static int load_roles(struct loader *l, const char *name[4])
{
    static const char *const role[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
    static const int place[] = {0, 1, 2, -1, 3, -1, -1};
    for (int i = 0; i < 7; i++) {
        enum clip_file k = CLIP_SPECIAL;
        const char *text = i == 0 ? "<|startoftext|>" : "<|endoftext|>";
        bool normalized = false;
        json_t *v = l->from_decoder ? NULL : json_object_get(l->json[k], role[i]);
        if (!v || json_is_null(v)) v = json_object_get(l->json[k = CLIP_CONFIG], role[i]);
        if (!v || json_is_null(v)) {
            if (place[i] < 0) continue;
        } else if (read_token(l, v, file_name[k], role[i], &text, &normalized) < 0) {
            return -1;
        }
        if (l->from_decoder) /* there the declaration of added_tokens_decoder stands */
            for (int j = 0; j < l->n_added; j++)
                if (!strcmp(l->added[j].text, text)) normalized = l->added[j].normalized;
        if (place[i] >= 0) name[place[i]] = text;
        if (declare(l, text, -1, normalized, file_name[k]) < 0) return -1;
    }
    enum clip_file k = CLIP_SPECIAL;
    json_t *list = l->from_decoder ? NULL : json_object_get(l->json[k], "additional_special_tokens"), *v;
    if (!list) list = json_object_get(l->json[k = CLIP_CONFIG], "additional_special_tokens");
    size_t i;
    json_array_foreach(list, i, v)
    {
        const char *text;
        bool normalized;
        if (read_token(l, v, file_name[k], "additional_special_tokens", &text, &normalized) < 0 ||
            declare(l, text, -1, normalized, file_name[k]) < 0)
            return -1;
    }
    return 0;
}

/* Gives every declared token its id and, when the vocabulary lacks it, its place behind the vocabulary. */
static int place_added(struct loader *l)
{
    struct clip_bpe *b = l->b;
    int n = b->n_vocab;
    for (int i = 0; i < l->n_added; i++) {
        struct added *a = &l->added[i];
        int32_t known = clip_find_piece(b, a->text, strlen(a->text));
        if (a->id < 0) a->id = known;
        if (a->id < 0 || (known >= 0 && known != a->id))
            return dl_fail(l->e, DL_EINPUT, "%s: special token \"%.80s\" %s", l->where, a->text,
                           known < 0 ? "is neither in vocab.json nor in added_tokens.json"
                                     : "has another id in vocab.json");
        if (known < 0) n++;
    }
    char **piece = realloc(b->piece, (size_t)n * sizeof *piece);
    b->special = calloc((size_t)n, sizeof *b->special);
    if (piece) b->piece = piece;
    if (!piece || !b->special) return out_of_memory(l);
    for (; b->n_pieces < n; b->n_pieces++) piece[b->n_pieces] = NULL;
    for (int i = 0; i < l->n_added; i++) {
        struct added *a = &l->added[i];
        bool known = a->id < b->n_vocab && !strcmp(piece[a->id], a->text);
        if (!known && (a->id >= n || piece[a->id]))
            return dl_fail(l->e, DL_EINPUT, "%s: added token \"%.80s\": id %d is %s", l->where, a->text, a->id,
                           a->id >= n ? "beyond a vocabulary without gaps" : "another piece's");
        if (!known && !(piece[a->id] = strdup(a->text))) return out_of_memory(l);
        b->special[a->id] = true;
    }
    return 0;
}

static int by_place(const void *x, const void *y)
{
    const struct clip_mark *a = x, *b = y;
    int ca = (unsigned char)a->text[0], cb = (unsigned char)b->text[0];
    if (ca != cb) return ca - cb;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? 1 : -1;
    return memcmp(a->text, b->text, a->bytes);
}

enum which { ALL, NOT_NORMALIZED, NORMALIZED };

static int fill_marks(struct loader *l, struct clip_marks *m, enum which which)
{
    m->mark = calloc((size_t)l->n_added + 1, sizeof *m->mark);
    if (!m->mark) return out_of_memory(l);
    for (int i = 0; i < l->n_added; i++) {
        const struct added *a = &l->added[i];
        if (which != ALL && a->normalized != (which == NORMALIZED)) continue;
        struct clip_mark k = {.bytes = strlen(a->text), .id = a->id};
        if (which == NORMALIZED) {
            struct text_u32 t = {0};
            int rc = text_decode(&t, a->text, k.bytes, l->e);
            if (rc == 0) rc = text_clean(&t, TEXT_HF5, l->e);
            if (rc == 0) rc = text_encode(&t, &k.text, &k.bytes, l->e);
            text_free(&t);
            if (rc < 0) return dl_fail_in(l->e, "%s: special token \"%.80s\"", l->where, a->text);
        } else if (!(k.text = strdup(a->text))) {
            return out_of_memory(l);
        }
        m->mark[m->n++] = k;
    }
    qsort(m->mark, (size_t)m->n, sizeof *m->mark, by_place);
    for (int c = 0, i = 0; c <= 256; c++) {
        while (i < m->n && (unsigned char)m->mark[i].text[0] < c) i++;
        m->first[c] = i;
    }
    return 0;
}

static int load_length(struct loader *l)
{
    json_t *v = json_object_get(l->json[CLIP_CONFIG], "model_max_length");
    double n = json_is_number(v) ? json_number_value(v) : 0;
    l->b->max_length = !json_is_number(v) || n > CLIP_MAX_LEN ? 77 : n < 2 ? 0 : (int)n;
    if (!l->b->max_length)
        return dl_fail(l->e, DL_EINPUT, "%s/%s: model_max_length %g: at least 2 is needed", l->where,
                       file_name[CLIP_CONFIG], n);
    return 0;
}

static int compile(struct loader *l)
{
    for (int i = 0; i < 2; i++) {
        int code;
        PCRE2_SIZE at;
        l->b->words[i] =
            pcre2_compile((PCRE2_SPTR)word_pattern[i], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!l->b->words[i])
            return dl_fail(l->e, DL_EFAIL, "this PCRE2 does not take CLIP's word pattern (error %d at %zu)", code, at);
    }
    return 0;
}

int clip_bpe_parse(struct clip_bpe **out, const struct clip_files *files, const char *where, struct dl_err *e)
{
    const char *role[4] = {0};
    struct loader l = {.where = where, .e = e, .b = calloc(1, sizeof *l.b)};
    int rc = -1;
    *out = NULL;
    if (!l.b) return out_of_memory(&l);
    for (int k = 0; k <= CLIP_MERGES; k++)
        if (!files->file[k].text) {
            dl_fail(e, DL_EINPUT, "%s/%s: missing: a CLIP tokenizer needs vocab.json and merges.txt", where,
                    file_name[k]);
            goto done;
        }
    for (int k = 0; k < CLIP_NFILES; k++)
        if (k != CLIP_MERGES && load_json(&l, files, k) < 0) goto done;
    if (load_vocab(&l) < 0 || load_merges(&l, files->file[CLIP_MERGES].text, files->file[CLIP_MERGES].bytes) < 0 ||
        load_decoder(&l) < 0 || load_added(&l) < 0 || load_roles(&l, role) < 0 || place_added(&l) < 0 ||
        fill_marks(&l, &l.b->raw, ALL) < 0 || fill_marks(&l, &l.b->raw5, NOT_NORMALIZED) < 0 ||
        fill_marks(&l, &l.b->clean, NORMALIZED) < 0 || load_length(&l) < 0 || compile(&l) < 0)
        goto done;
    int32_t *id[] = {&l.b->bos, &l.b->eos, &l.b->unk, &l.b->pad, &l.b->typed[0], &l.b->typed[1]};
    const char *name[] = {role[0], role[1], role[2], role[3], "<|startoftext|>", "<|endoftext|>"};
    for (int i = 0; i < 6; i++) {
        *id[i] = clip_find_piece(l.b, name[i], strlen(name[i]));
        for (int j = 0; j < l.n_added; j++)
            if (!strcmp(l.added[j].text, name[i])) *id[i] = l.added[j].id;
    }
    rc = 0;
done:
    for (int k = 0; k < CLIP_NFILES; k++) json_decref(l.json[k]);
    for (int i = 0; i < l.n_added; i++) free(l.added[i].text);
    free(l.added);
    if (rc == 0)
        *out = l.b;
    else
        clip_bpe_close(l.b);
    return rc;
}

/* A whole file. Absent: text stays NULL and 0 is returned. */
static int read_file(const char *dir, enum clip_file k, char **text, size_t *bytes, struct dl_err *e)
{
    size_t n = 0, cap = 0;
    char *path = malloc(strlen(dir) + strlen(file_name[k]) + 2), *buf = NULL;
    if (!path) return dl_fail(e, DL_ENOMEM, "%s: no memory for the tokenizer", dir);
    sprintf(path, "%s/%s", dir, file_name[k]);
    FILE *f = fopen(path, "rb");
    int rc = f || errno == ENOENT ? 0 : dl_fail(e, DL_EINPUT, "%s: %s", path, strerror(errno));
    while (f && rc == 0) {
        if (n == cap) {
            cap = cap ? 2 * cap : 1 << 16;
            char *p = cap <= MAX_FILE_BYTES ? realloc(buf, cap) : NULL;
            if (!p) {
                rc = cap > MAX_FILE_BYTES ? dl_fail(e, DL_EINPUT, "%s: larger than %d MiB", path, MAX_FILE_BYTES >> 20)
                                          : dl_fail(e, DL_ENOMEM, "%s: no memory for the file", path);
                break;
            }
            buf = p;
        }
        size_t got = fread(buf + n, 1, cap - n, f);
        n += got;
        if (got) continue;
        if (ferror(f)) rc = dl_fail(e, DL_EINPUT, "%s: %s", path, strerror(errno));
        break;
    }
    if (f) fclose(f);
    free(path);
    if (rc < 0) {
        free(buf);
        return -1;
    }
    *text = buf;
    *bytes = n;
    return 0;
}

int clip_bpe_open(struct clip_bpe **out, const char *dir, struct dl_err *e)
{
    struct clip_files files = {0};
    char *text[CLIP_NFILES] = {0};
    int rc = 0;
    *out = NULL;
    for (int k = 0; k < CLIP_NFILES && rc == 0; k++) {
        rc = read_file(dir, k, &text[k], &files.file[k].bytes, e);
        files.file[k].text = text[k];
    }
    if (rc == 0) rc = clip_bpe_parse(out, &files, dir, e);
    for (int k = 0; k < CLIP_NFILES; k++) free(text[k]);
    return rc;
}

void clip_bpe_close(struct clip_bpe *b)
{
    if (!b) return;
    for (int i = 0; i < b->n_pieces; i++) free(b->piece[i]);
    struct clip_marks *m[] = {&b->raw, &b->raw5, &b->clean};
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < m[i]->n; j++) free(m[i]->mark[j].text);
        free(m[i]->mark);
    }
    for (int i = 0; i < 2; i++) pcre2_code_free(b->words[i]);
    free(b->piece);
    free(b->piece_slot);
    free(b->merge);
    free(b->merge_slot);
    free(b->special);
    free(b);
}
