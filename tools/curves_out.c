#define _GNU_SOURCE /* open_memstream, asprintf */
#include "tools/curves.h"
#include "lens/outfile.h"
#include "tools/cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BARS = 3 };
static const char *const bar_name[BARS] = {"first noun", "second noun", "tie"};

static int64_t bar_count(const struct curves_bars *b, int i) { return i == 0 ? b->first : i == 1 ? b->second : b->tie; }

static double bar_percent(const struct curves_bars *b, int i)
{
    return b->n ? 100.0 * (double)bar_count(b, i) / (double)b->n : NAN;
}

static double final_percent(const struct curve *c) { return 100.0 * (double)c->n_final / (double)c->n_images; }

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

static void print_number(double v)
{
    if (isnan(v))
        printf("%7s", "-");
    else
        printf("%7.1f", v);
}

static void print_curve(const char *label, const struct curve *c)
{
    enum { A_LINE = 16 }; /* layers */
    printf("%s\n  %" PRId64 " of %" PRId64 " image%s right at the last layer (%.1f %%), %d seed%s\n", label, c->n_final,
           c->n_images, plural(c->n_images), final_percent(c), c->n_seeds, plural(c->n_seeds));
    for (int from = 0; from < c->n_points; from += A_LINE) {
        int to = c->n_points < from + A_LINE ? c->n_points : from + A_LINE;
        bool sd = false;
        printf("  layer");
        for (int i = from; i < to; i++) printf("%7d", c->point[i].k), sd |= !isnan(c->point[i].sd);
        printf("\n  %%    ");
        for (int i = from; i < to; i++) print_number(c->point[i].mean);
        if (sd) printf("\n  SD   ");
        for (int i = from; sd && i < to; i++) print_number(c->point[i].sd);
        printf("\n");
    }
    if (!c->n_final) return;
    printf("  mean first layer that is right %.1f, from which on all are right %.1f; ", c->earliest, c->stable);
    printf(c->half < 0 ? "50 %% at no layer\n" : "50 %% from layer %d on\n", c->half);
}

void curves_print(const struct curves_found *f)
{
    for (int i = 0; f->curve && i < f->n_files; i++) {
        if (i) printf("\n");
        print_curve(f->labels.full[i], &f->curve[i]);
    }
    for (int g = 0; g < f->n_groups; g++) {
        const struct curves_bars *b = &f->bars[g];
        printf("%s\n  %" PRId64 " image%s right at the last layer", f->labels.full[g], b->n, plural(b->n));
        for (int i = 0; b->n && i < BARS; i++)
            printf("%s %s %.1f %% (%" PRId64 ")", i ? "," : ":", bar_name[i], bar_percent(b, i), bar_count(b, i));
        printf("\n");
    }
}

static json_t *real_or_null(double v) { return isnan(v) ? json_null() : json_real(v); }

static json_t *json_of_marks(const struct marks *m)
{
    return json_pack("{so so so so sb so sI sI}", "file", cli_string(m->path), "series", cli_string(m->name.series),
                     "question", cli_string(m->name.question), "model", cli_string(m->name.model), "graded", m->graded,
                     "threshold", m->graded ? json_integer(m->threshold) : json_null(), "blank_cells",
                     (json_int_t)m->n_blank, "unreadable_cells", (json_int_t)m->n_unreadable);
}

static json_t *json_of_curve(const struct curves_found *f, int i)
{
    const struct curve *c = &f->curve[i];
    json_t *o = json_of_marks(&f->marks[i]), *layers = json_array();
    for (int j = 0; j < c->n_points; j++) {
        const struct curve_point *p = &c->point[j];
        json_array_append_new(layers, json_pack("{si so so si sI sI}", "k", p->k, "mean", real_or_null(p->mean), "sd",
                                                real_or_null(p->sd), "seeds", p->seeds, "n", (json_int_t)p->n, "right",
                                                (json_int_t)p->right));
    }
    json_object_set_new(o, "label", cli_string(f->labels.full[i]));
    json_object_set_new(o, "images", json_integer(c->n_images));
    json_object_set_new(o, "final_right", json_integer(c->n_final));
    json_object_set_new(o, "final_percent", json_real(final_percent(c)));
    json_object_set_new(o, "seeds", json_integer(c->n_seeds));
    json_object_set_new(o, "earliest", real_or_null(c->earliest));
    json_object_set_new(o, "stable", real_or_null(c->stable));
    json_object_set_new(o, "half", c->half < 0 ? json_null() : json_integer(c->half));
    json_object_set_new(o, "layers", layers);
    return o;
}

static json_t *json_of_bars(const struct curves_found *f, int g)
{
    static const char *const key[BARS] = {"first", "second", "tie"};
    const struct curves_bars *b = &f->bars[g];
    json_t *o = json_object(), *files = json_array();
    json_object_set_new(o, "label", cli_string(f->labels.full[g]));
    json_object_set_new(o, "n", json_integer(b->n));
    json_object_set_new(o, "unmatched", json_integer(b->n_unmatched));
    for (int i = 0; i < BARS; i++) {
        json_object_set_new(
            o, key[i],
            json_pack("{sI so}", "n", (json_int_t)bar_count(b, i), "percent", real_or_null(bar_percent(b, i))));
        json_array_append_new(files, json_of_marks(&f->marks[f->group[3 * g + i]]));
    }
    json_object_set_new(o, "files", files);
    return o;
}

void curves_json(const struct curves_found *f, json_t *o)
{
    json_t *list = json_array();
    for (int i = 0; f->curve && i < f->n_files; i++) json_array_append_new(list, json_of_curve(f, i));
    for (int g = 0; g < f->n_groups; g++) json_array_append_new(list, json_of_bars(f, g));
    if (f->curve) json_object_set_new(o, "rule", json_string(f->rule == CURVES_ALL ? "all" : "final"));
    json_object_set_new(o, f->curve ? "curves" : "bars", list);
}

static void write_text(FILE *out, const char *text)
{
    bool quoted = strpbrk(text, ",\"\r\n");
    if (quoted) fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputs(quoted ? "\"," : ",", out);
}

static void write_number(FILE *out, double v, const char *behind)
{
    if (!isnan(v)) fprintf(out, "%.17g", v);
    fputs(behind, out);
}

int curves_write_csv(const struct curves_found *f, const char *path, struct dl_err *e)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    fputs(f->curve ? "label,file,rule,layer,percent,sd,seeds,cells,right\n"
                   : "label,n,first,second,tie,first_percent,second_percent,tie_percent,unmatched\n",
          out);
    for (int i = 0; f->curve && i < f->n_files; i++)
        for (int j = 0; j < f->curve[i].n_points; j++) {
            const struct curve_point *p = &f->curve[i].point[j];
            write_text(out, f->labels.full[i]);
            write_text(out, f->marks[i].path);
            fprintf(out, "%s,%d,", f->rule == CURVES_ALL ? "all" : "final", p->k);
            write_number(out, p->mean, ",");
            write_number(out, p->sd, ",");
            fprintf(out, "%d,%" PRId64 ",%" PRId64 "\n", p->seeds, p->n, p->right);
        }
    for (int g = 0; g < f->n_groups; g++) {
        const struct curves_bars *b = &f->bars[g];
        write_text(out, f->labels.full[g]);
        fprintf(out, "%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",", b->n, b->first, b->second, b->tie);
        for (int i = 0; i < BARS; i++) write_number(out, bar_percent(b, i), ",");
        fprintf(out, "%" PRId64 "\n", b->n_unmatched);
    }
    bool bad = ferror(out);
    int rc =
        fclose(out) || bad ? dl_fail(e, DL_ENOMEM, "%s: no memory", path) : outfile_write(path, text, (int64_t)n, e);
    free(text);
    return rc;
}

/* The title of a figure that was given none, in `out` (owned), and the labels that go with it. */
static int default_title(const struct curves_found *f, char **out)
{
    const char *common = f->labels.n == 1 ? f->labels.full[0] : f->labels.common;
    int n = f->curve ? asprintf(out, "%s", common)
                     : asprintf(out, "Which noun appears first%s%s", *f->labels.common ? ": " : "", f->labels.common);
    if (n < 0) return *out = NULL, -1;
    if (**out >= 'a' && **out <= 'z') **out = (char)(**out - 'a' + 'A');
    return 0;
}

static int plot_curves(const struct curves_found *f, struct plot_spec *s, bool titled, const char *path,
                       struct dl_err *e)
{
    int points = 0, n = f->n_files, rc = 0;
    struct plot_curve *curve = calloc((size_t)n, sizeof *curve);
    for (int i = 0; i < n; i++) points += f->curve[i].n_points;
    struct plot_point *point = calloc((size_t)points, sizeof *point), *at = point;
    if (!curve || !point) rc = dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    for (int i = 0; !rc && i < n; i++) {
        const struct curve *c = &f->curve[i];
        /* The title of a single curve is its label. */
        curve[i] = (struct plot_curve){titled ? f->labels.full[i] : n > 1 ? f->labels.brief[i] : NULL, at, c->n_points};
        for (int j = 0; j < c->n_points; j++)
            *at++ = (struct plot_point){c->point[j].k, c->point[j].mean, c->point[j].sd};
    }
    bool bands = false;
    for (int i = 0; !rc && i < points; i++) bands |= !isnan(point[i].sd);
    s->curve = curve, s->n_curves = n;
    s->x_title = "Layer of the text encoder";
    s->y_title =
        f->rule == CURVES_ALL ? "% of images"
        : bands ? "% of the images that are right at the last layer (bands: \302\261 1 standard deviation over seeds)"
                : "% of the images that are right at the last layer";
    if (!rc) rc = plot_draw(s, path, e);
    free(curve);
    free(point);
    return rc;
}

static int plot_bars(const struct curves_found *f, struct plot_spec *s, const char *path, struct dl_err *e)
{
    int n = f->n_groups, rc = 0;
    char **label = calloc((size_t)n, sizeof *label);
    double *value = calloc((size_t)n * BARS, sizeof *value);
    if (!label || !value) rc = dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    for (int g = 0; !rc && g < n; g++) {
        const char *name = n > 1 ? f->labels.brief[g] : f->labels.full[g];
        if (asprintf(&label[g], "%s (n\302\240=\302\240%" PRId64 ")", name, f->bars[g].n) < 0) {
            label[g] = NULL;
            rc = dl_fail(e, DL_ENOMEM, "%s: no memory", path);
        }
        for (int i = 0; i < BARS; i++) value[BARS * g + i] = f->bars[g].n ? bar_percent(&f->bars[g], i) : 0;
    }
    s->y_title = "% of the images that are right at the last layer";
    s->bars = (struct plot_bars){bar_name, BARS, (const char *const *)label, n, value};
    if (!rc) rc = plot_draw(s, path, e);
    for (int g = 0; label && g < n; g++) free(label[g]);
    free(label);
    free(value);
    return rc;
}

int curves_plot(const struct curves_found *f, const char *title, int w, int h, const char *path, struct dl_err *e)
{
    char *own = NULL;
    if (!title && default_title(f, &own)) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    struct plot_spec s = {.title = title ? title : own, .w = w, .h = h};
    int rc = f->curve ? plot_curves(f, &s, title, path, e) : plot_bars(f, &s, path, e);
    free(own);
    return rc;
}
