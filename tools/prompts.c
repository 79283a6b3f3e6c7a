#include "tools/prompts.h"
#include "lens/outfile.h"
#include "loaders/text_clean.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 256 << 20, PROMPTS_MAX = 10000000 };

int prompts_seed(const char *option, const char *text, uint64_t *seed, struct dl_err *e)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!strcmp(text, "-1"))
        v = UINT64_MAX, end = (char *)text + 2, errno = 0;
    else if (*text < '0' || *text > '9')
        end = (char *)text, errno = EINVAL;
    if (*end || errno)
        return dl_fail(e, DL_EUSAGE, "%s %s: a seed is a whole number from 0 to 18446744073709551615, or -1", option,
                       text);
    *seed = v;
    return 0;
}

int prompts_seeds(const char *option, const char *text, uint64_t *seeds, int max, struct dl_err *e)
{
    char item[64];
    int n_seeds = 0;
    for (const char *s = text;; s++) {
        size_t n = strcspn(s, ",");
        snprintf(item, sizeof item, "%.*s", (int)n, s);
        char *colon = strchr(item, ':');
        uint64_t from, to;
        if (colon) *colon = 0;
        if (prompts_seed(option, item, &from, e) < 0 || (colon && prompts_seed(option, colon + 1, &to, e) < 0))
            return -1;
        if (!colon) to = from + 1;
        if (colon && to <= from) return dl_fail(e, DL_EUSAGE, "%s %s: %s:%s is empty", option, text, item, colon + 1);
        for (uint64_t v = from; v != to; v++) {
            if (n_seeds == max) return dl_fail(e, DL_EUSAGE, "%s %s: more than %d seeds", option, text, max);
            for (int i = 0; i < n_seeds; i++)
                if (seeds[i] == v)
                    return dl_fail(e, DL_EUSAGE, "%s %s: %llu is named twice", option, text, (unsigned long long)v);
            seeds[n_seeds++] = v;
        }
        s += n;
        if (!*s) return n_seeds;
    }
}

int prompts_check(const char *text, struct dl_err *e)
{
    struct text_u32 t = {0};
    int rc = text_decode(&t, text, strlen(text), e);
    text_free(&t);
    return rc;
}

int prompts_add(struct prompts *ps, const char *text, const char *negative, const uint64_t *seeds, int n_seeds,
                struct dl_err *e)
{
    if (ps->n == PROMPTS_MAX) return dl_fail(e, DL_EUSAGE, "more than %d prompts", PROMPTS_MAX);
    if (!(ps->n & (ps->n - 1))) { /* room grows at powers of two */
        struct lens_prompt *more = realloc(ps->p, (size_t)(ps->n ? 2 * ps->n : 1) * sizeof *more);
        if (!more) return dl_fail(e, DL_ENOMEM, "no memory for %d prompts", ps->n);
        ps->p = more;
    }
    struct lens_prompt *p = &ps->p[ps->n++];
    *p = (struct lens_prompt){.text = strdup(text), .negative = negative ? strdup(negative) : NULL, .n_seeds = n_seeds};
    p->seeds = malloc((size_t)n_seeds * sizeof *seeds);
    if (!p->text || (negative && !p->negative) || !p->seeds)
        return dl_fail(e, DL_ENOMEM, "no memory for %d prompts", ps->n);
    for (int i = 0; i < n_seeds; i++) p->seeds[i] = seeds[i] + (ps->seed_offset ? (uint64_t)(ps->n - 1) : 0);
    return 0;
}

static int add_json(struct prompts *ps, const char *path, int line, const char *text, size_t n, const char *negative,
                    const uint64_t *seeds, int n_seeds, struct dl_err *e)
{
    json_error_t je;
    json_t *o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(o)) {
        json_decref(o);
        return dl_fail(e, DL_EINPUT, "%s: line %d: no JSON object (%s)", path, line, o ? "another value" : je.text);
    }
    const json_t *prompt = json_object_get(o, "prompt"), *seed = json_object_get(o, "seed"),
                 *neg = json_object_get(o, "negative");
    const char *key;
    json_t *value;
    uint64_t own = 0;
    int rc = 0;
    json_object_foreach(o, key, value) if (strcmp(key, "prompt") && strcmp(key, "seed") && strcmp(key, "negative")) rc =
        dl_fail(e, DL_EINPUT, "%s: line %d: unknown key \"%s\"; known are prompt, seed and negative", path, line, key);
    if (!json_is_string(prompt))
        rc = dl_fail(e, DL_EINPUT, "%s: line %d: \"prompt\" is missing or no string", path, line);
    if (neg && !json_is_string(neg) && !json_is_null(neg))
        rc = dl_fail(e, DL_EINPUT, "%s: line %d: \"negative\" is no string", path, line);
    if (json_is_integer(seed) && json_integer_value(seed) >= -1)
        own = (uint64_t)json_integer_value(seed);
    else if (seed && !json_is_null(seed) &&
             (!json_is_string(seed) || prompts_seed("seed", json_string_value(seed), &own, NULL) < 0))
        rc = dl_fail(e, DL_EINPUT, "%s: line %d: \"seed\" is no whole number from -1", path, line);
    bool has_seed = seed && !json_is_null(seed);
    if (rc == 0)
        rc = prompts_add(ps, json_string_value(prompt), json_is_string(neg) ? json_string_value(neg) : negative,
                         has_seed ? &own : seeds, has_seed ? 1 : n_seeds, e);
    if (rc == 0 && has_seed) ps->p[ps->n - 1].seeds[0] = own, ps->p[ps->n - 1].own_seed = true; /* never offset */
    json_decref(o);
    return rc;
}

int prompts_read(struct prompts *ps, const char *path, const char *negative, const uint64_t *seeds, int n_seeds,
                 struct dl_err *e)
{
    uint8_t *data;
    int64_t bytes;
    struct dl_err read = {0};
    if (outfile_read(path, FILE_MAX, &data, &bytes, &read) < 0) return dl_fail(e, DL_EINPUT, "%s", read.msg);
    char *s = (char *)data;
    if (bytes >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) s += 3;
    bool json = s[strspn(s, " \t\r\n")] == '{';
    int rc = 0, before = ps->n;
    if (memchr(s, 0, (size_t)(bytes - ((uint8_t *)s - data))))
        rc = dl_fail(e, DL_EINPUT, "%s: holds a zero byte: this is no text file", path);
    for (int line = 1; *s && rc == 0; line++) {
        size_t n = strcspn(s, "\n"), next = n + (s[n] == '\n');
        while (n && (s[n - 1] == '\r')) n--;
        bool blank = strspn(s, " \t\r") >= n;
        char *text = blank ? NULL : strndup(s, n);
        struct dl_err wrong = {0};
        if (!blank && !text)
            rc = dl_fail(e, DL_ENOMEM, "%s: no memory", path);
        else if (!blank && prompts_check(text, &wrong) < 0)
            rc = dl_fail(e, DL_EINPUT, "%s: line %d: %s", path, line, wrong.msg);
        else if (!blank)
            rc = json ? add_json(ps, path, line, text, n, negative, seeds, n_seeds, e)
                      : prompts_add(ps, text, negative, seeds, n_seeds, e);
        free(text);
        s += next;
    }
    free(data);
    if (rc == 0 && ps->n == before) rc = dl_fail(e, DL_EINPUT, "%s: no prompts in it", path);
    return rc;
}

void prompts_close(struct prompts *ps)
{
    for (int i = 0; i < ps->n; i++) free(ps->p[i].text), free(ps->p[i].negative), free(ps->p[i].seeds);
    free(ps->p);
    *ps = (struct prompts){0};
}
