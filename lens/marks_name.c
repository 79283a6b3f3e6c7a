/* What files of annotations are called, and what their curves are called after them. See marks.h. */
#define _GNU_SOURCE /* strndup, asprintf, strcasestr */
#include "lens/marks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }

/* The n bytes between p and the next underscore or the end. */
static size_t part_bytes(const char *p, const char *end)
{
    const char *next = memchr(p, '_', (size_t)(end - p));
    return (size_t)((next ? next : end) - p);
}

static bool is_part(const char *p, size_t n, const char *word) { return n == strlen(word) && !memcmp(p, word, n); }

void marks_name_read(struct marks_name *n, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *end = name + strlen(name);
    if (end - name > 4 && !strcasecmp(end - 4, ".csv")) end -= 4;
    /* The last part in CamelCase before a part that is not, but one before "df" or "sd" comes first: the series may be
     * written in capitals too, and it stands again behind the model in the published names. */
    const char *question = NULL;
    size_t question_n = 0, model_n = 0;
    bool sure = false;
    for (const char *p = name; p < end && !sure;) {
        size_t bytes = part_bytes(p, end);
        const char *next = p + bytes < end ? p + bytes + 1 : end;
        size_t after = part_bytes(next, end);
        if (p > name && is_upper(*p) && !(next < end && is_upper(*next))) {
            question = p, question_n = bytes, model_n = after;
            sure = is_part(next, after, "df") || is_part(next, after, "sd");
        }
        p = next;
    }
    n->series = strndup(name, (size_t)((question ? question - 1 : end) - name));
    n->question = strndup(question ? question : "", question_n);
    n->model = strndup(question_n && model_n ? question + question_n + 1 : "", model_n);
}

void marks_name_close(struct marks_name *n)
{
    free(n->series);
    free(n->question);
    free(n->model);
    *n = (struct marks_name){0};
}

enum { SERIES, QUESTION, MODEL, GRADED, PARTS };

/* Part i of a file's label into `out`, which has twice the room of the longest part. */
static void readable(char *out, const struct marks *m, int i)
{
    const char *s = i == SERIES ? m->name.series : i == QUESTION ? m->name.question : m->name.model;
    if (i == GRADED) s = m->graded ? "graded" : "";
    if (i == MODEL && !strcmp(s, "df")) s = "DeepFloyd IF";
    if (i == MODEL && !strcmp(s, "sd")) s = "Stable Diffusion";
    if (i == SERIES) {
        const char *const drop[] = {"auto_prompts_", "positional_"};
        for (int d = 0; d < 2; d++)
            if (!strncmp(s, drop[d], strlen(drop[d])) && s[strlen(drop[d])]) s += strlen(drop[d]);
    }
    if (i == QUESTION && !strncmp(s, "Is", 2) && is_upper(s[2])) s += 2;
    for (const char *p = s; *p; p++) {
        bool word = i == QUESTION && is_upper(*p);
        if (word && p > s && !is_upper(p[-1])) *out++ = ' ';
        *out++ = word ? (char)(*p - 'A' + 'a') : i == SERIES && *p == '_' ? ' ' : *p;
    }
    *out = 0;
}

static void join(char *to, const char *part)
{
    if (*to && *part) strcat(to, ", ");
    strcat(to, part);
}

static bool has_twice(char **label, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            if (!strcmp(label[i], label[j])) return true;
    return false;
}

static int paths_instead(char **label, const struct marks *m, int n)
{
    for (int i = 0; i < n; i++) {
        free(label[i]);
        if (!(label[i] = strdup(m[i].path))) return -1;
    }
    return 0;
}

int marks_label(struct marks_labels *l, const struct marks *m, int n, struct dl_err *e)
{
    size_t longest = 0;
    for (int i = 0; i < n; i++)
        if (strlen(m[i].path) > longest) longest = strlen(m[i].path);
    longest = 2 * longest + 32; /* of a part as it is read: a blank before every letter, or a model written out */
    size_t whole = PARTS * (longest + 2);
    *l = (struct marks_labels){.n = n};
    l->full = calloc((size_t)n, sizeof *l->full);
    l->brief = calloc((size_t)n, sizeof *l->brief);
    l->common = calloc(1, whole);
    char *part = calloc(2, longest), *other = part ? part + longest : NULL;
    int rc = l->full && l->brief && l->common && part ? 0 : -1;
    for (int i = 0; !rc && i < n; i++) {
        l->full[i] = calloc(1, whole);
        l->brief[i] = calloc(1, whole);
        if (!l->full[i] || !l->brief[i]) rc = -1;
    }
    for (int p = 0; !rc && p < PARTS; p++) {
        bool same = n > 1;
        readable(other, &m[0], p);
        for (int i = 0; i < n; i++) {
            readable(part, &m[i], p);
            same &= !strcmp(part, other);
            join(l->full[i], part);
        }
        if (same) join(l->common, other);
        for (int i = 0; i < n && !same; i++) {
            readable(part, &m[i], p);
            join(l->brief[i], p == GRADED && n > 1 && !*part ? "annotated" : part);
        }
    }
    free(part);
    for (int i = 0; !rc && i < n; i++) /* a name that is all common, beside longer ones */
        if (!*l->brief[i]) strcpy(l->brief[i], l->full[i]);
    if (!rc && has_twice(l->full, n)) rc = paths_instead(l->full, m, n);
    if (!rc && has_twice(l->brief, n)) rc = paths_instead(l->brief, m, n);
    if (!rc) return 0;
    marks_labels_close(l);
    return dl_fail(e, DL_ENOMEM, "no memory for the labels of %d curves", n);
}

void marks_labels_close(struct marks_labels *l)
{
    for (int i = 0; i < l->n; i++) {
        if (l->full) free(l->full[i]);
        if (l->brief) free(l->brief[i]);
    }
    free(l->full);
    free(l->brief);
    free(l->common);
    *l = (struct marks_labels){0};
}
