#include "lens/report_page.h"
#include "lens/names.h"
#include "lens/sha256.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALT_MAX = 160 };

/* " · 3 prompts" */
static void put_count(struct web *to, int64_t n, const char *noun)
{
    web_putf(to, " \xc2\xb7 %" PRId64 " %s%s", n, noun, n == 1 ? "" : "s");
}

/* Whether row i is the first of its prompt. */
static bool begins_prompt(const struct report *r, int64_t i) { return !i || r->row[i].prompt != r->row[i - 1].prompt; }

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* How many different seeds are shown; -1 without memory. */
static int64_t count_seeds(const struct report *r)
{
    uint64_t *seed = malloc((size_t)r->n_rows * sizeof *seed);
    int64_t n = 0;
    if (!seed) return -1;
    for (int64_t i = 0; i < r->n_rows; i++) seed[i] = r->row[i].seed;
    qsort(seed, (size_t)r->n_rows, sizeof *seed, by_value);
    for (int64_t i = 0; i < r->n_rows; i++) n += !i || seed[i] != seed[i - 1];
    free(seed);
    return n;
}

static int put_summary(struct report *r, struct web *to, struct dl_err *e)
{
    int64_t prompts = 0, seeds = count_seeds(r);
    if (seeds < 0) return dl_fail(e, DL_ENOMEM, "%s: no memory", r->dir);
    for (int64_t i = 0; i < r->n_rows; i++) prompts += begins_prompt(r, i);
    web_put(to, "dlens ");
    web_text(to, r->d->command);
    put_count(to, prompts, "prompt");
    put_count(to, seeds, "seed");
    put_count(to, r->n_layers, "layer");
    return 0;
}

static int put_title(struct report *r, struct web *to, struct dl_err *e)
{
    (void)e;
    web_text(to, r->d->model.title);
    web_put(to, " Diffusion Lens");
    return 0;
}

static int put_model(struct report *r, struct web *to, struct dl_err *e)
{
    (void)e;
    web_text(to, r->d->model.title);
    return 0;
}

static int put_version(struct report *r, struct web *to, struct dl_err *e)
{
    (void)e;
    web_text(to, r->d->dlens);
    return 0;
}

/* ---- the record of settings ---- */

static void begin_part(struct web *to, const char *title)
{
    web_put(to, "<tbody>\n<tr><th colspan=\"2\" scope=\"rowgroup\">");
    web_put(to, title);
    web_put(to, "</th></tr>\n");
}

static void put_setting(struct web *to, const char *outer, const char *key, const char *value)
{
    web_put(to, "<tr><th scope=\"row\">");
    web_text(to, outer);
    web_put(to, *outer ? ": " : "");
    web_text(to, key);
    web_put(to, "</th><td>");
    web_text(to, value);
    web_put(to, "</td></tr>\n");
}

/* A row for each member; those of an object within have its name in front. */
static int put_object(struct web *to, const char *outer, const json_t *o, struct dl_err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o, key, v)
    {
        if (json_is_object(v) && !*outer) {
            if (put_object(to, key, v, e)) return -1;
            continue;
        }
        char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
        if (!text && !json_is_string(v)) return dl_fail(e, DL_ENOMEM, "no memory for a page's settings");
        put_setting(to, outer, key, text ? text : json_string_value(v));
        free(text);
    }
    return 0;
}

/* Negative prompts: one line where all prompts have the same. */
static void put_negatives(const struct report *r, struct web *to)
{
    const struct manifest_prompt *p = r->d->prompt;
    const char *first = p[r->row[0].prompt].negative;
    bool same = true;
    for (int64_t i = 0; i < r->n_rows; i++) {
        const char *n = p[r->row[i].prompt].negative;
        same = same && (!n == !first) && (!n || !strcmp(n, first));
    }
    if (same && first) put_setting(to, "", "negative prompt", *first ? first : "\"\"");
    for (int64_t i = 0; !same && i < r->n_rows; i++) {
        const char *n = p[r->row[i].prompt].negative;
        char number[16];
        snprintf(number, sizeof number, "%d", r->row[i].prompt);
        if (n && begins_prompt(r, i)) put_setting(to, "negative prompt", number, *n ? n : "\"\"");
    }
}

/* All that the manifest records, but for the model's path: it says more about its owner than about the pictures. */
static int put_settings(struct report *r, struct web *to, struct dl_err *e)
{
    const struct manifest_doc *d = r->d;
    char pictures[64] = "as they were made";
    if (r->cell_px) snprintf(pictures, sizeof pictures, "at most %d pixels a side on this page", r->cell_px);
    begin_part(to, "Sweep");
    put_setting(to, "", "model", d->model.title);
    put_setting(to, "", "class", d->model.class_name);
    put_setting(to, "", "fingerprint", d->model.fingerprint);
    put_setting(to, "", "command", d->command);
    put_setting(to, "", "dlens", d->dlens);
    put_negatives(r, to);
    put_setting(to, "", "pictures", pictures);
    web_put(to, "</tbody>\n");
    begin_part(to, "Settings");
    if (put_object(to, "", d->settings, e)) return -1;
    web_put(to, "</tbody>\n");
    if (!json_object_size(d->run)) return 0;
    begin_part(to, "Run");
    if (put_object(to, "", d->run, e)) return -1;
    web_put(to, "</tbody>\n");
    return 0;
}

/* ---- the table ---- */

static int put_columns(struct report *r, struct web *to, struct dl_err *e)
{
    (void)e;
    for (int i = 0; i < r->n_layers; i++) {
        char title[NAMES_MAX];
        names_title(title, r->by_block, r->layer[i]);
        web_putf(to, "<th scope=\"col\">%s</th>", title);
    }
    return 0;
}

void report_alt(const struct report *r, struct web *to, const struct report_row *row, int k)
{
    char title[NAMES_MAX];
    const char *text = r->d->prompt[row->prompt].text;
    int64_t n = (int64_t)strlen(text), shown = n;
    if (n > ALT_MAX) /* up to a whole character */
        for (shown = ALT_MAX; (text[shown] & 0xc0) == 0x80; shown--) {
        }
    names_title(title, r->by_block, k);
    web_text_part(to, text, shown);
    /* "layer 5" in the middle of a sentence */
    web_putf(to, "%s, %c%s, seed %" PRIu64, shown < n ? "\xe2\x80\xa6" : "", title[0] | 0x20, title + 1, row->seed);
}

static int put_rows(struct report *r, struct web *to, struct dl_err *e)
{
    for (int64_t i = 0; i < r->n_rows && !web_is_full(to); i++) {
        const struct report_row *row = &r->row[i];
        web_put(to, "<tr><th scope=\"row\"><span class=\"prompt\" dir=\"auto\">");
        web_text(to, r->d->prompt[row->prompt].text);
        web_putf(to, "</span><span class=\"seed\">seed %" PRIu64 "</span></th>\n", row->seed);
        for (int j = 0; j < r->n_layers && !web_is_full(to); j++) {
            web_put(to, "<td>");
            if (report_picture(r, to, row, r->layer[j], e)) return -1;
            web_put(to, "</td>\n");
        }
        web_put(to, "</tr>\n");
    }
    return 0;
}

/* ---- what the script knows ---- */

/* The folder's own name, for the names of files; as ASCII where it is not UTF-8. */
static void folder_name(char name[NAME_MAX + 1], const char *dir)
{
    char full[PATH_MAX];
    const char *path = realpath(dir, full) ? full : dir, *slash = strrchr(path, '/');
    snprintf(name, NAME_MAX + 1, "%.*s", NAME_MAX, slash && slash[1] ? slash + 1 : *path == '/' ? "sweep" : path);
    json_t *text = json_string(name);
    for (char *c = name; !text && *c; c++) *c = (unsigned char)*c < 0x80 ? *c : '_';
    json_decref(text);
}

/* What makes a sweep the same one, whatever part of it is shown: scores that a browser keeps are filed under it. */
static int sweep_id(char id[SHA256_HEX], const struct manifest_doc *d)
{
    json_t *what = json_pack("{ss sO sO}", "fingerprint", d->model.fingerprint, "settings", d->settings, "prompts",
                             json_object_get(d->root, "prompts"));
    char *text = what ? json_dumps(what, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(what);
    if (!text) return -1;
    sha256_bytes(id, text, (int64_t)strlen(text));
    free(text);
    return 0;
}

static json_t *layers_json(const struct report *r)
{
    json_t *list = json_array();
    for (int i = 0; i < r->n_layers; i++) {
        char title[NAMES_MAX];
        names_title(title, r->by_block, r->layer[i]);
        const char *space = strchr(title, ' '); /* "Layer 5" is 5 on the slider */
        json_array_append_new(
            list, json_pack("{si ss ss}", "k", r->layer[i], "title", title, "tick", space ? space + 1 : title));
    }
    return list;
}

/* {"id", "folder", "layers": [{"k", "title", "tick"}], "prompts": [text], "numbers": [of the prompts in the sweep],
 *  "rows": [[index into prompts, "seed"]]} */
static int put_data(struct report *r, struct web *to, struct dl_err *e)
{
    char id[SHA256_HEX], folder[NAME_MAX + 1], seed[24];
    json_t *prompts = json_array(), *numbers = json_array(), *rows = json_array();
    int n = -1;
    folder_name(folder, r->dir);
    for (int64_t i = 0; i < r->n_rows; i++) {
        const struct report_row *row = &r->row[i];
        if (begins_prompt(r, i)) {
            n++;
            json_array_append_new(prompts, json_string(r->d->prompt[row->prompt].text));
            json_array_append_new(numbers, json_integer(row->prompt));
        }
        snprintf(seed, sizeof seed, "%" PRIu64, row->seed);
        json_array_append_new(rows, json_pack("[is]", n, seed));
    }
    bool whole = json_array_size(rows) == (size_t)r->n_rows && json_array_size(prompts) == (size_t)n + 1;
    json_t *data = json_pack("{ss ss so so so so}", "id", sweep_id(id, r->d) ? "" : id, "folder", folder, "layers",
                             layers_json(r), "prompts", prompts, "numbers", numbers, "rows", rows);
    if (data && whole) web_json(to, data);
    json_decref(data);
    return data && whole ? 0 : dl_fail(e, DL_ENOMEM, "%s: no memory for a page's data", r->dir);
}

/* ---- the skeleton ---- */

static const struct {
    const char *word;
    const unsigned char *text;
    const int64_t *bytes;
    const char *directive; /* of the policy that allows it */
} own[] = {
    {"style", report_page_css, &report_page_css_bytes, "style-src"},
    {"csv_js", report_csv_js, &report_csv_js_bytes, "script-src"},
    {"scores_js", report_scores_js, &report_scores_js_bytes, "script-src"},
    {"page_js", report_page_js, &report_page_js_bytes, "script-src"},
};
enum { OWN = sizeof own / sizeof *own };

/* Nothing is loaded, and of style and script only what hashes to these runs. */
static int put_policy(struct report *r, struct web *to, struct dl_err *e)
{
    (void)r, (void)e;
    const char *directive = "";
    web_put(to, "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:");
    for (int i = 0; i < OWN; i++) {
        char hex[SHA256_HEX];
        uint8_t hash[32];
        sha256_bytes(hex, own[i].text, *own[i].bytes);
        for (int b = 0; b < 32; b++) hash[b] = (uint8_t)strtoul((char[]){hex[2 * b], hex[2 * b + 1], 0}, NULL, 16);
        if (strcmp(directive, own[i].directive)) web_putf(to, "; %s", directive = own[i].directive);
        web_put(to, " 'sha256-");
        web_base64(to, hash, sizeof hash);
        web_put(to, "'");
    }
    return 0;
}

static const struct {
    const char *word;
    int (*put)(struct report *r, struct web *to, struct dl_err *e);
} words[] = {
    {"policy", put_policy},   {"version", put_version}, {"title", put_title},
    {"model", put_model},     {"summary", put_summary}, {"settings", put_settings},
    {"columns", put_columns}, {"rows", put_rows},       {"data", put_data},
};

static int put_word(struct report *r, struct web *to, const char *word, size_t n, struct dl_err *e)
{
    for (int i = 0; i < OWN; i++)
        if (strlen(own[i].word) == n && !memcmp(own[i].word, word, n)) {
            web_raw(to, own[i].text, *own[i].bytes);
            return 0;
        }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i].word) == n && !memcmp(words[i].word, word, n)) return words[i].put(r, to, e);
    return dl_fail(e, DL_EFAIL, "lens/report/page.html: nothing is known for {{%.*s}}", (int)n, word);
}

int report_page(struct report *r, struct web *to, struct dl_err *e)
{
    const char *at = (const char *)report_page_html, *open;
    for (; (open = strstr(at, "{{")); at = strstr(open, "}}") + 2) {
        web_raw(to, at, open - at);
        open += 2;
        if (put_word(r, to, open, strcspn(open, "}"), e)) return -1;
    }
    web_put(to, at);
    return 0;
}
