#include "lens/snapshot.h"
#include "lens/names.h"
#include "loaders/st_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIELDS = 6, KEY_MAX = NAMES_MAX + 16 };

/* What is stored of one text and encoder, in order. */
struct field {
    const char *name;
    uint8_t t;
    int nd;
    int64_t dim[3];
};

static int fields_of(const struct pipe *p, const struct pipe_encoder *enc, struct field f[FIELDS])
{
    int n = 0;
    f[n++] = (struct field){"input_ids", DL_I64, 1, {enc->tokens}};
    f[n++] = (struct field){"attention_mask", DL_I64, 1, {enc->tokens}};
    f[n++] = (struct field){"hidden_states", DL_F32, 3, {enc->blocks + 1, enc->tokens, enc->width}};
    f[n++] = (struct field){"final", DL_F32, 2, {enc->tokens, enc->width}};
    if (enc->pooled) f[n++] = (struct field){"pooled", DL_F32, 1, {enc->pooled}};
    if (enc->pooled && p->honours & PIPE_POOLED) f[n++] = (struct field){"pooled_empty", DL_F32, 1, {enc->pooled}};
    return n;
}

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
    const struct pipe *pipe;
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
        json_t *o = json_pack("{s:s, s:s?}", "prompt", prompt[i].text, "negative", prompt[i].negative);
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

/* The tensors of prompt i or (i < 0) negative -1 - i, from t[at] on; the new end. */
static int64_t list_text(const struct pipe *p, const struct lens_conds *c, int i, struct st_tensor *t,
                         char (*key)[KEY_MAX], int64_t at)
{
    struct field f[FIELDS];
    int owner = i < 0 ? first_with(c, -1 - i) : i;
    for (int q = 0; q < p->n_encoders; q++) {
        int n = fields_of(p, &p->encoder[q], f);
        for (int m = 0; m < n; m++, at++) {
            key_of(key[at], i, owner, c->n_negatives == 1, p->encoder[q].folder, f[m].name);
            t[at] = (struct st_tensor){.name = key[at], .t = f[m].t, .nd = f[m].nd};
            memcpy(t[at].dim, f[m].dim, (size_t)f[m].nd * sizeof *f[m].dim);
        }
    }
    return at;
}

int snapshot_create(struct snapshot_writer **out, const char *path, const struct pipe *p,
                    const struct lens_prompt *prompt, const struct lens_conds *c, const char *model, struct dl_err *e)
{
    int64_t n = (int64_t)(c->n_prompts + c->n_negatives) * p->n_encoders * FIELDS, at = 0;
    struct snapshot_writer *w = *out = calloc(1, sizeof *w);
    struct st_tensor *t = calloc((size_t)n, sizeof *t);
    char(*key)[KEY_MAX] = calloc((size_t)n, sizeof *key), *prompts = prompts_json(prompt, c->n_prompts);
    int rc = -1;
    if (!w || !t || !key || !prompts) {
        dl_fail(e, DL_ENOMEM, "%s: no memory", path);
        goto done;
    }
    w->pipe = p;
    for (int i = 0; i < c->n_prompts; i++) at = list_text(p, c, i, t, key, at);
    for (int i = 0; i < c->n_negatives; i++)
        if (lens_negative(c, p, prompt, i)) at = list_text(p, c, -1 - i, t, key, at);
    struct st_pair meta[] = {{"dlens", model}, {"prompts", prompts}};
    rc = st_writer_open(&w->st, path, t, at, meta, 2, e);
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

/* A pooled vector that the encoder was not asked for is stored as zeros. */
static int add_pooled(struct st_writer *st, const float *v, int n, struct dl_err *e)
{
    float none[n];
    memset(none, 0, sizeof none);
    return st_writer_add(st, v ? v : none, n * (int64_t)sizeof *v, e);
}

int snapshot_add(void *user, int i, const char *text, const struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    struct snapshot_writer *w = user;
    (void)i, (void)text; /* the order is the header's */
    for (int q = 0; q < w->pipe->n_encoders; q++) {
        const struct pipe_encoder *enc = &w->pipe->encoder[q];
        int64_t state = (int64_t)st[q].tokens * st[q].width * (int64_t)sizeof(float);
        if (add_wide(w->st, st[q].ids, st[q].tokens, false, e) < 0 ||
            add_wide(w->st, st[q].mask, st[q].tokens, true, e) < 0 ||
            st_writer_add(w->st, st[q].hidden, (st[q].blocks + 1) * state, e) < 0 ||
            st_writer_add(w->st, st[q].final, state, e) < 0)
            return -1;
        if (enc->pooled && add_pooled(w->st, st[q].pooled, enc->pooled, e) < 0) return -1;
        if (enc->pooled && w->pipe->honours & PIPE_POOLED && add_pooled(w->st, st[q].pooled_empty, enc->pooled, e) < 0)
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
    return json_string_value(json_object_get(json_array_get(s->prompts, (size_t)i), name));
}

const char *snapshot_text(const struct snapshot *s, int i)
{
    const char *text = field(s, i, "prompt");
    return text ? text : "";
}

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

/* Tensor `name` of an encoder as float32 [count], owned by the caller; NULL with the error. */
static float *read_floats(const struct snapshot *s, const char *prefix, const char *folder, const char *name, int nd,
                          const int64_t *dim, struct dl_err *e)
{
    char key[KEY_MAX + 64];
    snprintf(key, sizeof key, "%s%s.%s", prefix, folder, name);
    const struct st_tensor *t = st_need(s->f, key, -1, nd, dim, e);
    if (!t) return NULL;
    if (t->t != DL_F32 && t->t != DL_F16 && t->t != DL_BF16) {
        dl_fail(e, DL_EINPUT, "%s: %s is %s; expected F32, F16 or BF16", st_file_path(s->f), key, t->dtype);
        return NULL;
    }
    int64_t n = 1;
    for (int i = 0; i < nd; i++) n *= dim[i];
    float *v = malloc((size_t)n * sizeof *v);
    if (!v)
        dl_fail(e, DL_ENOMEM, "%s: no memory", st_file_path(s->f));
    else
        dl_convert(v, DL_F32, t->data, t->t, n);
    for (int64_t i = 0; v && i < n; i++)
        if (!isfinite(v[i])) {
            dl_fail(e, DL_EINPUT, "%s: %s: element %" PRId64 " is %g; states must be numbers", st_file_path(s->f), key,
                    i, (double)v[i]);
            free(v);
            return NULL;
        }
    return v;
}

/* Token ids, and with them the end token: CLIP's has the largest number of all, so it is the first of the largest. */
static int read_ids(const struct snapshot *s, const char *prefix, const struct pipe_encoder *enc,
                    struct text_states *st, struct dl_err *e)
{
    char key[KEY_MAX + 64];
    snprintf(key, sizeof key, "%s%s.input_ids", prefix, enc->folder);
    const struct st_tensor *t = st_need(s->f, key, DL_I64, 1, (int64_t[]){enc->tokens}, e);
    if (!t) return -1;
    st->ids = malloc((size_t)enc->tokens * sizeof *st->ids);
    if (!st->ids) return dl_fail(e, DL_ENOMEM, "%s: no memory", st_file_path(s->f));
    for (int i = 0; i < enc->tokens; i++) {
        int64_t id;
        memcpy(&id, (const uint8_t *)t->data + i * (int64_t)sizeof id, sizeof id);
        if (id < 0 || id > INT32_MAX)
            return dl_fail(e, DL_EINPUT, "%s: %s: %" PRId64 " is no token", st_file_path(s->f), key, id);
        st->ids[i] = (int32_t)id;
        if (id > st->ids[st->eos]) st->eos = i;
    }
    return 0;
}

static bool has_field(const struct snapshot *s, const char *prefix, const char *folder, const char *name)
{
    char key[KEY_MAX + 64];
    snprintf(key, sizeof key, "%s%s.%s", prefix, folder, name);
    return st_find(s->f, key) != NULL;
}

/* All states of one text as the encoder would have given them. prefix: "p000." or "negative." */
static int read_states(const struct snapshot *s, const struct pipe *p, const char *prefix,
                       struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    for (int q = 0; q < p->n_encoders; q++) {
        const struct pipe_encoder *enc = &p->encoder[q];
        const int64_t dim[] = {enc->blocks + 1, enc->tokens, enc->width}, pooled[] = {enc->pooled};
        st[q] = (struct text_states){.encoder = enc->folder,
                                     .blocks = enc->blocks,
                                     .tokens = enc->tokens,
                                     .width = enc->width,
                                     .pooled_width = enc->pooled};
        st[q].hidden = read_floats(s, prefix, enc->folder, "hidden_states", 3, dim, e);
        if (!st[q].hidden) return -1;
        if (!enc->pooled) continue;
        if (read_ids(s, prefix, enc, &st[q], e) < 0) return -1;
        if (has_field(s, prefix, enc->folder, "pooled") &&
            !(st[q].pooled = read_floats(s, prefix, enc->folder, "pooled", 1, pooled, e)))
            return -1;
        if (has_field(s, prefix, enc->folder, "pooled_empty") &&
            !(st[q].pooled_empty = read_floats(s, prefix, enc->folder, "pooled_empty", 1, pooled, e)))
            return -1;
    }
    return 0;
}

static int read_negative(const struct snapshot *s, struct pipe *p, int owner, struct pipe_cond *c, struct dl_err *e)
{
    struct text_states st[PIPE_ENCODERS] = {0};
    char own[KEY_MAX];
    const char *folder = p->encoder[0].folder, *prefix = "negative.";
    snprintf(own, sizeof own, "p%03d.negative.", owner);
    if (has_field(s, own, folder, "hidden_states")) prefix = own;
    if (!has_field(s, prefix, folder, "hidden_states"))
        return dl_fail(e, DL_EINPUT,
                       "%s: no %s%s.hidden_states: guidance needs the negative prompt's states; store them with dlens "
                       "encode, or use --guidance 1",
                       st_file_path(s->f), prefix, folder);
    int rc = read_states(s, p, prefix, st, e);
    if (rc == 0) rc = pipe_condition(p, st, NULL, 0, c, e);
    text_states_close(st);
    return rc;
}

/* The first prompt of the file with this negative, under whose number the file has its states. */
static int owner_of(const struct snapshot *s, const struct pipe *p, const struct lens_job *job, const char *negative)
{
    for (int i = 0; i < s->n; i++) {
        const char *own = lens_negative_of(p, &job->prompt[i]);
        if (own && !strcmp(own, negative)) return i;
    }
    return 0;
}

int snapshot_conds(const struct snapshot *s, struct pipe *p, const struct lens_job *job, int first, int n,
                   struct lens_conds *c, struct dl_err *e)
{
    const struct lens_prompt *prompt = job->prompt + first;
    int rc = lens_conds_open(c, p, prompt, n, job->n_layers, e);
    c->first = first;
    for (int i = 0; i < n && rc == 0; i++) {
        struct text_states st[PIPE_ENCODERS] = {0};
        char prefix[KEY_MAX];
        snprintf(prefix, sizeof prefix, "p%03d.", first + i);
        rc = read_states(s, p, prefix, st, e);
        for (int j = 0; j < job->n_layers && rc == 0; j++)
            rc = pipe_condition(p, st, &job->lens, job->k[j], &c->cond[(int64_t)i * job->n_layers + j], e);
        text_states_close(st);
    }
    for (int i = 0; lens_guided(p, job) && i < c->n_negatives && rc == 0; i++)
        rc = lens_negative(c, p, prompt, i)
                 ? read_negative(s, p, owner_of(s, p, job, lens_negative(c, p, prompt, i)), &c->negative[i], e)
                 : pipe_cond_open(p, &c->negative[i], e);
    if (rc < 0) lens_conds_close(c);
    return rc;
}
