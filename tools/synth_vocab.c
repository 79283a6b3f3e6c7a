/* A small vocabulary in CLIP's format (vocab.json and merges.txt of Radford et al. 2021): 256 byte symbols, the same as
 * ends of words, a merge for each beginning of some common words, the two special tokens as the last ids. */
#include "tools/synth.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char synth_words[] =
    "a an the of in on at and with by to for from is are was as it its one two three red green blue yellow black white "
    "dark bright big small old new cat dog bird fish horse bear man woman people child tree house car boat train sky "
    "sea ocean river mountain snow beach street city night day sun moon light water fire photo painting drawing "
    "picture "
    "image style portrait landscape standing sitting running playing holding wearing around under over between next "
    "near";

static const char bos[] = "<|startoftext|>", eos[] = "<|endoftext|>";

enum { MAX_PIECES = 1024, PIECE = 24 };

struct vocabulary {
    int n, n_merges;
    char piece[MAX_PIECES][PIECE]; /* UTF-8, by id */
    char merge[MAX_PIECES][2 * PIECE];
};

static bool has(const struct vocabulary *v, const char *piece)
{
    for (int i = 0; i < v->n; i++)
        if (!strcmp(v->piece[i], piece)) return true;
    return false;
}

/* The symbol of a byte: itself where it prints, else the next free code point from 256 on, in UTF-8. */
static void add_bytes(struct vocabulary *v, const char *end)
{
    for (int pass = 0, extra = 0; pass < 2; pass++)
        for (int b = 0; b < 256; b++) {
            bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
            if (prints == (pass == 1)) continue;
            int c = prints ? b : 256 + extra++;
            char *p = v->piece[v->n++];
            if (c < 128)
                snprintf(p, PIECE, "%c%s", c, end);
            else
                snprintf(p, PIECE, "%c%c%s", 0xc0 | c >> 6, 0x80 | (c & 63), end);
        }
}

/* The merges of one word, letter by letter from its beginning; beginnings that are known are passed over. */
static void add_word(struct vocabulary *v, const char *word, int len)
{
    for (int k = 2; k <= len; k++) {
        const char *end = k == len ? "</w>" : "";
        char left[PIECE], right[PIECE], both[PIECE];
        snprintf(left, sizeof left, "%.*s", k - 1, word);
        snprintf(right, sizeof right, "%c%s", word[k - 1], end);
        snprintf(both, sizeof both, "%.*s%s", k, word, end);
        if (has(v, both)) continue;
        snprintf(v->merge[v->n_merges++], 2 * PIECE, "%s %s", left, right);
        memcpy(v->piece[v->n++], both, PIECE);
    }
}

static void make_words(struct vocabulary *v)
{
    add_bytes(v, "");
    add_bytes(v, "</w>");
    for (const char *w = synth_words; *w;) {
        int len = (int)strcspn(w, " ");
        add_word(v, w, len);
        w += len + (w[len] == ' ');
    }
}

static void put_json(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', f);
        fputc(*s, f);
    }
    fputc('"', f);
}

/* Ids from 0 without holes; with `want`, unused entries fill up to the special tokens. */
static int write_vocabulary(const char *folder, const struct vocabulary *v, int want, int *vocab, struct dl_err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/vocab.json", folder);
    FILE *f = fopen(path, "wb");
    if (!f) return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", path, strerror(errno));
    fputc('{', f);
    for (int i = 0; i < v->n; i++) {
        put_json(f, v->piece[i]);
        fprintf(f, ": %d, ", i);
    }
    int n = v->n;
    for (; n < want - 2; n++) fprintf(f, "\"<unused %d>\": %d, ", n, n);
    fprintf(f, "\"%s\": %d, \"%s\": %d}\n", bos, n, eos, n + 1);
    *vocab = n + 2;
    bool bad = ferror(f);
    if (fclose(f) || bad) return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", path, strerror(errno));

    snprintf(path, sizeof path, "%s/merges.txt", folder);
    f = fopen(path, "wb");
    if (!f) return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", path, strerror(errno));
    fputs("#version: 0.2\n", f);
    for (int i = 0; i < v->n_merges; i++) fprintf(f, "%s\n", v->merge[i]);
    bad = ferror(f);
    if (fclose(f) || bad) return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", path, strerror(errno));
    return 0;
}

enum { MAX_FILE = 64 << 20 };

int synth_copy(const char *from, const char *to, const char *file, bool optional, const char *expected,
               struct dl_err *e)
{
    char a[4096], b[4096];
    snprintf(a, sizeof a, "%s/%s", from, file);
    snprintf(b, sizeof b, "%s/%s", to, file);
    FILE *in = fopen(a, "rb");
    if (!in && optional && errno == ENOENT) return 0;
    if (!in)
        return dl_fail(e, DL_EINPUT, "%s: cannot read: %s; --tokenizer takes a folder with %s", a, strerror(errno),
                       expected);
    FILE *out = fopen(b, "wb");
    if (!out) {
        fclose(in);
        return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", b, strerror(errno));
    }
    char buf[1 << 14];
    bool bad = false;
    int64_t total = 0;
    for (size_t n; !bad && (n = fread(buf, 1, sizeof buf, in)) > 0;) {
        total += (int64_t)n;
        bad = total > MAX_FILE || fwrite(buf, 1, n, out) != n;
    }
    bool unread = ferror(in);
    fclose(in);
    if (fclose(out)) bad = true;
    if (unread) return dl_fail(e, DL_EINPUT, "%s: cannot be read", a);
    if (total > MAX_FILE) return dl_fail(e, DL_EINPUT, "%s: larger than 64 MiB", a);
    return bad ? dl_fail(e, DL_EFAIL, "%s: cannot write: %s", b, strerror(errno)) : 1;
}

/* The size of the token table that a copied vocabulary needs. */
static int read_vocabulary(const char *folder, int want, int *vocab, struct dl_err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/vocab.json", folder);
    json_error_t je;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(root)) {
        json_decref(root);
        return dl_fail(e, DL_EINPUT, "%s: not a JSON object: %s", path, je.text);
    }
    int64_t most = -1;
    bool ok = json_is_integer(json_object_get(root, bos)) && json_is_integer(json_object_get(root, eos));
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v)
    {
        int64_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        ok = ok && id >= 0 && id < 1 << 24;
        if (id > most) most = id;
    }
    json_decref(root);
    if (!ok)
        return dl_fail(e, DL_EINPUT, "%s: not a CLIP vocabulary: needs ids for all, and %s and %s", path, bos, eos);
    if (want && most >= want)
        return dl_fail(e, DL_EINPUT, "%s: ids up to %lld, but the model has %d tokens", path, (long long)most, want);
    *vocab = want ? want : (int)most + 1;
    return 0;
}

static int write_settings(const char *folder, const char *pad, struct dl_err *e)
{
    if (synth_text(folder, "special_tokens_map.json", e,
                   "{\n  'bos_token': '%s',\n  'eos_token': '%s',\n  'pad_token': '%s',\n  'unk_token': '%s'\n}\n", bos,
                   eos, pad, eos) < 0)
        return -1;
    return synth_text(folder, "tokenizer_config.json", e,
                      "{\n  'add_prefix_space': false,\n  'bos_token': '%s',\n  'do_lower_case': true,\n"
                      "  'eos_token': '%s',\n  'errors': 'replace',\n  'model_max_length': 77,\n  'pad_token': '%s',\n"
                      "  'tokenizer_class': 'CLIPTokenizer',\n  'unk_token': '%s'\n}\n",
                      bos, eos, pad, eos);
}

int synth_tokenizer(const struct synth_opts *o, const char *name, const char *pad, int *vocab, struct dl_err *e)
{
    char folder[4000];
    if ((size_t)snprintf(folder, sizeof folder, "%s/%s", o->out, name) >= sizeof folder)
        return dl_fail(e, DL_EUSAGE, "%.200s...: this folder's name is too long", o->out);
    if (synth_folder(folder, e) < 0 || write_settings(folder, pad, e) < 0) return -1;
    int want = *vocab;
    if (o->tokenizer) {
        static const char files[] = "vocab.json and merges.txt";
        if (synth_copy(o->tokenizer, folder, "vocab.json", false, files, e) < 0 ||
            synth_copy(o->tokenizer, folder, "merges.txt", false, files, e) < 0)
            return -1;
        bool settings = !strcmp(name, "tokenizer"); /* a second tokenizer has its own */
        if (settings && synth_copy(o->tokenizer, folder, "special_tokens_map.json", true, files, e) < 0) return -1;
        if (settings && synth_copy(o->tokenizer, folder, "tokenizer_config.json", true, files, e) < 0) return -1;
        return read_vocabulary(folder, want, vocab, e);
    }
    struct vocabulary *v = calloc(1, sizeof *v);
    if (!v) return dl_fail(e, DL_ENOMEM, "%s: no memory", folder);
    make_words(v);
    int rc = write_vocabulary(folder, v, want, vocab, e);
    free(v);
    return rc;
}
