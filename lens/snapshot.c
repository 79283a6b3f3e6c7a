#include "lens/snapshot.h"
#include "lens/names.h"
#include "loaders/st_write.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS = 4, KEY_MAX = NAMES_MAX + 16 };
static const char *const what[KEYS] = {"input_ids", "attention_mask", "hidden_states", "final"};

/* Key of one tensor: of prompt i, or (i < 0) of the negative -1 - i. With one negative its owner is left out. */
static void key_of(char out[KEY_MAX], int i, int owner, bool one_negative, const char *folder, const char *w)
{
    char name[NAMES_MAX];
    names_snapshot(name, i < 0 ? owner : i, folder, w);
    if (i >= 0)
        snprintf(out, KEY_MAX, "%s", name);
    else if (one_negative)
        snprintf(out, KEY_MAX, "negative.%s.%s", folder, w);
    else
        snprintf(out, KEY_MAX, "%.*s.negative.%s.%s", (int)strcspn(name, "."), name, folder, w);
}

/* ---- writing ---- */

struct snapshot_writer {
    struct st_writer *st;
};

static int first_with(const struct lens_conds *c, int negative)
{
    int i = 0;
    while (c->negative_of[i] != negative) i++;
    return i;
}

static char *prompts_json(const struct lens_prompt *prompt, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_t *o = json_pack("{s:s, s:s}", "prompt", prompt[i].text, "negative", prompt[i].negative);
        char digits[24];
        snprintf(digits, sizeof digits, "%" PRIu64, prompt[i].seeds[0]);
        if (prompt[i].own_seed)
            json_object_set_new(o, "seed",
                                prompt[i].seeds[0] >> 53 ? json_string(digits)
                                                         : json_integer((json_int_t)prompt[i].seeds[0]));
        json_array_append_new(list, o);
    }
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}

int snapshot_create(struct snapshot_writer **out, const char *path, const struct pipe *p,
                    const struct lens_prompt *prompt, const struct lens_conds *c, const char *model, struct dl_err *e)
{
    int64_t n = (int64_t)(c->n_prompts + c->n_negatives) * p->n_encoders * KEYS, at = 0;
    struct snapshot_writer *w = *out = calloc(1, sizeof *w);
    struct st_tensor *t = calloc((size_t)n, sizeof *t);
    char(*key)[KEY_MAX] = calloc((size_t)n, sizeof *key), *prompts = prompts_json(prompt, c->n_prompts);
    int rc = -1;
    if (!w || !t || !key || !prompts) {
        dl_fail(e, DL_ENOMEM, "%s: no memory", path);
        goto done;
    }
    for (int j = 0; j < c->n_prompts + c->n_negatives; j++) {
        int i = j < c->n_prompts ? j : c->n_prompts - j - 1, owner = i < 0 ? first_with(c, -1 - i) : i;
        for (int q = 0; q < p->n_encoders; q++)
            for (int m = 0; m < KEYS; m++, at++) {
                const struct pipe_encoder *enc = &p->encoder[q];
                key_of(key[at], i, owner, c->n_negatives == 1, enc->folder, what[m]);
                t[at] = (struct st_tensor){.name = key[at],
                                           .t = m < 2 ? DL_I64 : DL_F32,
                                           .nd = m < 2    ? 1
                                                 : m == 2 ? 3
                                                          : 2};
                int64_t dim[3] = {enc->blocks + 1, enc->tokens, enc->width};
                memcpy(t[at].dim, m < 2 ? dim + 1 : m == 2 ? dim : dim + 1, (size_t)t[at].nd * sizeof *dim);
            }
    }
    struct st_pair meta[] = {{"dlens", model}, {"prompts", prompts}};
    rc = st_writer_open(&w->st, path, t, n, meta, 2, e);
done:
    free(t), free(key), free(prompts);
    if (rc < 0) free(w), *out = NULL;
    return rc;
}

static int add_wide(struct st_writer *st, const void *from, int n, bool bytes, struct dl_err *e)
{
    int64_t v[n];
    for (int i = 0; i < n; i++) v[i] = bytes ? ((const uint8_t *)from)[i] : ((const int32_t *)from)[i];
    return st_writer_add(st, v, n * (int64_t)sizeof *v, e);
}

int snapshot_add(void *user, int i, const char *text, const struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    struct snapshot_writer *w = user;
    (void)i, (void)text; /* the order is the header's */
    for (int q = 0; q < PIPE_ENCODERS && st[q].hidden; q++) {
        int64_t state = (int64_t)st[q].tokens * st[q].width * (int64_t)sizeof(float);
        if (add_wide(w->st, st[q].ids, st[q].tokens, false, e) < 0 ||
            add_wide(w->st, st[q].mask, st[q].tokens, true, e) < 0 ||
            st_writer_add(w->st, st[q].hidden, (st[q].blocks + 1) * state, e) < 0 ||
            st_writer_add(w->st, st[q].final, state, e) < 0)
            return -1;
    }
    return 0;
}

int snapshot_finish(struct snapshot_writer *w, struct dl_err *e)
{
    int rc = st_writer_close(w->st, e);
    free(w);
    return rc;
}

void snapshot_drop(struct snapshot_writer *w)
{
    if (!w) return;
    st_writer_drop(w->st);
    free(w);
}

/* ---- reading ---- */

struct snapshot {
    struct st_file *f;
    json_t *prompts; /* array or NULL */
    int n;
};

/* Whether prompt i has any tensor: its keys begin with "pNNN." */
static bool has_prompt(const struct st_file *f, int i)
{
    char name[NAMES_MAX];
    names_snapshot(name, i, "", "");
    size_t n = strcspn(name, ".") + 1;
    for (int64_t j = 0; j < st_file_count(f); j++)
        if (!strncmp(st_file_at(f, j)->name, name, n)) return true;
    return false;
}

int snapshot_open(struct snapshot **out, const char *path, struct dl_err *e)
{
    struct snapshot *s = *out = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    if (st_open(&s->f, path, e) < 0) goto fail;
    const char *text = st_meta(s->f, "prompts");
    if (text) s->prompts = json_loads(text, 0, NULL);
    while (has_prompt(s->f, s->n)) s->n++;
    if (s->n) return 0;
    dl_fail(e, DL_EINPUT,
            "%s: no tensors of a prompt (p000.text_encoder.hidden_states); dlens encode writes such files", path);
fail:
    snapshot_close(s);
    *out = NULL;
    return -1;
}

void snapshot_close(struct snapshot *s)
{
    if (!s) return;
    if (s->prompts) json_decref(s->prompts);
    st_close(s->f);
    free(s);
}

int snapshot_prompts(const struct snapshot *s) { return s->n; }

static const char *field(const struct snapshot *s, int i, const char *name)
{
    const char *v = json_string_value(json_object_get(json_array_get(s->prompts, (size_t)i), name));
    return v ? v : "";
}

const char *snapshot_text(const struct snapshot *s, int i) { return field(s, i, "prompt"); }
const char *snapshot_negative(const struct snapshot *s, int i) { return field(s, i, "negative"); }

bool snapshot_seed(const struct snapshot *s, int i, uint64_t *seed)
{
    const json_t *v = json_object_get(json_array_get(s->prompts, (size_t)i), "seed");
    const char *digits = json_string_value(v);
    size_t n = digits ? strlen(digits) : 0;
    if (json_is_integer(v) && json_integer_value(v) >= 0)
        *seed = (uint64_t)json_integer_value(v);
    else if (n && n <= 20 && strspn(digits, "0123456789") == n)
        *seed = strtoull(digits, NULL, 10);
    else
        return false;
    return true;
}

static bool has_key(const struct snapshot *s, const char *key) { return st_find(s->f, key) != NULL; }

/* All states of one text as the encoder would have given them. prefix: "p000." or "negative." */
static int read_states(const struct snapshot *s, const struct pipe *p, const char *prefix,
                       struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    for (int q = 0; q < p->n_encoders; q++) {
        const struct pipe_encoder *enc = &p->encoder[q];
        char key[KEY_MAX];
        snprintf(key, sizeof key, "%s%s.hidden_states", prefix, enc->folder);
        const struct st_tensor *t = st_need(s->f, key, -1, 3, (int64_t[]){enc->blocks + 1, enc->tokens, enc->width}, e);
        if (!t) return -1;
        if (t->t != DL_F32 && t->t != DL_F16 && t->t != DL_BF16)
            return dl_fail(e, DL_EINPUT, "%s: %s is %s; hidden states are F32, F16 or BF16", st_file_path(s->f), key,
                           t->dtype);
        int64_t n = (int64_t)(enc->blocks + 1) * enc->tokens * enc->width;
        st[q] = (struct text_states){
            .encoder = enc->folder, .blocks = enc->blocks, .tokens = enc->tokens, .width = enc->width};
        st[q].hidden = malloc((size_t)n * sizeof(float));
        if (!st[q].hidden) return dl_fail(e, DL_ENOMEM, "%s: no memory", st_file_path(s->f));
        dl_convert(st[q].hidden, DL_F32, t->data, t->t, n);
    }
    return 0;
}

static int read_negative(const struct snapshot *s, struct pipe *p, int owner, struct pipe_cond *c, struct dl_err *e)
{
    struct text_states st[PIPE_ENCODERS] = {0};
    char own[KEY_MAX], key[KEY_MAX + 64];
    snprintf(own, sizeof own, "p%03d.negative.", owner);
    snprintf(key, sizeof key, "%s%s.hidden_states", own, p->encoder[0].folder);
    const char *prefix = has_key(s, key) ? own : "negative.";
    snprintf(key, sizeof key, "%s%s.hidden_states", prefix, p->encoder[0].folder);
    if (!has_key(s, key))
        return dl_fail(
            e, DL_EINPUT,
            "%s: no %s: guidance needs the negative prompt's states; store them with dlens encode, or use --guidance 1",
            st_file_path(s->f), key);
    int rc = read_states(s, p, prefix, st, e);
    if (rc == 0) rc = pipe_condition(p, st, p->encoder[0].blocks, true, c, e);
    text_states_close(st);
    return rc;
}

int snapshot_conds(const struct snapshot *s, struct pipe *p, const struct lens_prompt *prompt, const int *k,
                   int n_layers, bool norm, bool guided, struct lens_conds *c, struct dl_err *e)
{
    int rc = lens_conds_open(c, prompt, s->n, n_layers, e);
    for (int i = 0; i < s->n && rc == 0; i++) {
        struct text_states st[PIPE_ENCODERS] = {0};
        char prefix[KEY_MAX];
        snprintf(prefix, sizeof prefix, "p%03d.", i);
        rc = read_states(s, p, prefix, st, e);
        for (int j = 0; j < n_layers && rc == 0; j++)
            rc = pipe_condition(p, st, k[j], norm, &c->cond[(int64_t)i * n_layers + j], e);
        text_states_close(st);
    }
    for (int i = 0; guided && i < c->n_negatives && rc == 0; i++)
        rc = read_negative(s, p, first_with(c, i), &c->negative[i], e);
    if (rc < 0) lens_conds_close(c);
    return rc;
}
