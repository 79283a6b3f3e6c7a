#include "tools/curves.h"
#include "lens/names.h"
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const char help[] =
    "usage: dlens curves CSV... [options]\n"
    "\n"
    "Layer curves from annotation files: at which layer do how many images show what was asked for? A file has the\n"
    "columns prompt, one for each layer number, and seed; cells are 1, 0 or blank, or grades of 0 to 10. So are the\n"
    "files published with the Diffusion Lens and those that dlens report saves. The rules were inferred from the\n"
    "published files and plots.\n"
    "\n"
    "  --out FILE         .png, .pdf or .svg: the plot; .csv: the numbers (without: a table on stdout)\n"
    "  --rule RULE        final: of the images that are right at the last layer, mean and standard deviation over\n"
    "                     seeds; all: of all images together (final)\n"
    "  --threshold N      grade from which on a cell is right, 1 to 10, in graded files (6, with which GPT's "
    "published\n"
    "                     grades agree with the human annotations in 84.7 % of 34,314 cells, more than with others)\n"
    "  --bars             which of two nouns appears first: takes the files IsCorrect, IsFirstClass and\n"
    "                     IsSecondClass of one or several series and models, known by their names\n"
    "  --label TEXT       name of a curve or group of bars; the first for the first one, and so on (by file name)\n"
    "  --title TEXT       title of the plot (what the curves have in common); \"\" for none\n"
    "  --size WxH         of the plot in pixels, 96 to the inch (960x600)\n"
    "  --json             one JSON object on stdout        --quiet       errors only\n";

enum { OUT = CLI_OWN, RULE, THRESHOLD, BARS, LABEL, TITLE, SIZE };
static const struct option options[] = {CLI_OPTIONS,
                                        {"out", required_argument, NULL, OUT},
                                        {"rule", required_argument, NULL, RULE},
                                        {"threshold", required_argument, NULL, THRESHOLD},
                                        {"bars", no_argument, NULL, BARS},
                                        {"label", required_argument, NULL, LABEL},
                                        {"title", required_argument, NULL, TITLE},
                                        {"size", required_argument, NULL, SIZE},
                                        {0}};

enum { FILES_MAX = 4096 };

struct curves_args {
    const char *file[FILES_MAX], *label[FILES_MAX];
    int n_files, n_labels;
    const char *out, *title;
    int w, h; /* 0: not given */
    enum curves_rule rule;
    bool rule_given, bars;
    int threshold; /* 0: not given */
};

static int take_size(struct curves_args *a, struct dl_err *e)
{
    char *end;
    long w = strtol(optarg, &end, 10), h = *end == 'x' ? strtol(end + 1, &end, 10) : 0;
    if (*end || w < PLOT_SIDE_MIN || w > PLOT_SIDE_MAX || h < PLOT_SIDE_MIN || h > PLOT_SIDE_MAX)
        return dl_fail(e, DL_EUSAGE, "--size %s: expected WxH in pixels, each %d to %d", optarg, PLOT_SIDE_MIN,
                       PLOT_SIDE_MAX);
    a->w = (int)w, a->h = (int)h;
    return 0;
}

static int take(void *user, int v, struct dl_err *e)
{
    static const char *const rules[] = {"final", "all"};
    struct curves_args *a = user;
    int64_t n = 0;
    int i;
    switch (v) {
    case CLI_FILE: a->file[a->n_files++] = optarg; return 0; /* cli_main stops at FILES_MAX */
    case OUT: a->out = optarg; return 0;
    case RULE:
        i = cli_choice("--rule", optarg, 2, rules, e);
        a->rule = i == 1 ? CURVES_ALL : CURVES_FINAL, a->rule_given = true;
        return i < 0 ? -1 : 0;
    case THRESHOLD:
        if (cli_int("--threshold", optarg, 1, 10, &n, e) < 0) return -1;
        a->threshold = (int)n;
        return 0;
    case BARS: a->bars = true; return 0;
    case LABEL:
        if (a->n_labels == FILES_MAX) return dl_fail(e, DL_EUSAGE, "--label: more than %d", FILES_MAX);
        a->label[a->n_labels++] = optarg;
        return 0;
    case TITLE: a->title = optarg; return 0;
    default: return take_size(a, e);
    }
}

/* Text of a file, cut, for a message. */
static const char *shown(char out[44], const char *text)
{
    size_t n = strnlen(text, 40);
    if (text[n])
        while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    strcpy(out + n, text[n] ? "..." : "");
    return out;
}

static void tell(struct cli *c, const struct marks *m)
{
    char text[44];
    if (m->graded) cli_say(c, "%s: graded 0 to 10; a cell is right from %d on", m->path, m->threshold);
    if (m->n_ignored)
        cli_say(c, "%s: %d column%s (\"%s\"%s) not read, for no layer has such a number", m->path, m->n_ignored,
                m->n_ignored == 1 ? "" : "s", shown(text, m->ignored), m->n_ignored == 1 ? "" : ", ...");
    if (m->n_unreadable)
        cli_warn(
            c, "%s: %lld of %lld cells are no numbers and count as missing; the first: line %d, column \"%d\", \"%s\"",
            m->path, (long long)m->n_unreadable, (long long)m->n_rows * m->n_layers, m->unreadable_line,
            m->unreadable_layer, shown(text, m->unreadable));
}

static int read_files(struct cli *c, const struct curves_args *a, struct curves_found *f, struct dl_err *e)
{
    bool graded = false;
    f->marks = calloc((size_t)a->n_files, sizeof *f->marks);
    if (!f->marks) return dl_fail(e, DL_ENOMEM, "no memory for %d files", a->n_files);
    for (; f->n_files < a->n_files; f->n_files++) {
        const char *path = a->file[f->n_files];
        struct stat st;
        if (!stat(path, &st) && S_ISDIR(st.st_mode))
            return dl_fail(e, DL_EINPUT, "%s: is a folder; give the files in it, such as %s/*.csv", path, path);
        if (marks_open(&f->marks[f->n_files], path, f->threshold, e)) return -1;
        tell(c, &f->marks[f->n_files]);
        graded |= f->marks[f->n_files].graded;
    }
    if (a->threshold && !graded)
        return dl_fail(e, DL_EUSAGE, "--threshold %d: no file is graded; their cells are 1, 0 or blank", a->threshold);
    return 0;
}

static int compute_bars(struct cli *c, struct curves_found *f, struct dl_err *e)
{
    f->group = calloc((size_t)f->n_files * 3, sizeof *f->group);
    f->bars = calloc((size_t)f->n_files, sizeof *f->bars);
    struct marks *named = calloc((size_t)f->n_files, sizeof *named); /* borrowed, without their questions */
    int groups = 0, rc = f->group && f->bars && named ? 0 : dl_fail(e, DL_ENOMEM, "no memory for the bars");
    if (!rc) rc = curves_group(f->group, &groups, f->marks, f->n_files, e);
    for (int g = 0; !rc && g < groups; g++) {
        const int *of = f->group + 3 * g;
        rc = curves_bars(&f->bars[g], &f->marks[of[0]], &f->marks[of[1]], &f->marks[of[2]], e);
        named[g] = f->marks[of[0]];
        named[g].name.question = "";
        if (!rc && f->bars[g].n_unmatched)
            cli_say(c, "%s: left out: %lld image%s, right at the last layer, without a row in the files of the nouns",
                    f->marks[of[0]].path, (long long)f->bars[g].n_unmatched, f->bars[g].n_unmatched == 1 ? "" : "s");
    }
    if (!rc) rc = marks_label(&f->labels, named, groups, e);
    if (!rc) f->n_groups = groups;
    free(named);
    return rc;
}

static int compute_curves(struct curves_found *f, struct dl_err *e)
{
    f->curve = calloc((size_t)f->n_files, sizeof *f->curve);
    if (!f->curve) return dl_fail(e, DL_ENOMEM, "no memory for %d curves", f->n_files);
    for (int i = 0; i < f->n_files; i++)
        if (curves_compute(&f->curve[i], &f->marks[i], f->rule, e)) return -1;
    return marks_label(&f->labels, f->marks, f->n_files, e);
}

static int set_labels(const struct curves_args *a, struct marks_labels *l, struct dl_err *e)
{
    if (a->n_labels > l->n)
        return dl_fail(e, DL_EUSAGE, "--label %s: one more than the %d %s%s to name", a->label[l->n], l->n,
                       a->bars ? "group" : "curve", l->n == 1 ? "" : "s");
    for (int i = 0; i < a->n_labels; i++)
        for (int brief = 0; brief < 2; brief++) {
            char **at = brief ? &l->brief[i] : &l->full[i];
            free(*at);
            if (!(*at = strdup(a->label[i]))) return dl_fail(e, DL_ENOMEM, "--label: no memory");
        }
    return 0;
}

/* What the suffix of --out asks for. */
enum form { FORM_TABLE, FORM_CSV, FORM_PLOT, FORM_UNKNOWN };

static enum form form_of(const char *out)
{
    static const char *const plots[] = {".png", ".pdf", ".svg"};
    if (!out) return FORM_TABLE;
    const char *suffix = names_suffix(out);
    if (!strcasecmp(suffix, ".csv")) return FORM_CSV;
    for (int i = 0; i < 3; i++)
        if (!strcasecmp(suffix, plots[i])) return FORM_PLOT;
    return FORM_UNKNOWN;
}

static int check(const struct curves_args *a, enum form form, struct dl_err *e)
{
    if (!a->n_files) return dl_fail(e, DL_EUSAGE, "the CSV files of annotations are needed");
    if (form == FORM_UNKNOWN)
        return dl_fail(e, DL_EUSAGE, "--out %s: the name must end in .png, .pdf, .svg or .csv", a->out);
    if (a->bars && a->rule_given)
        return dl_fail(e, DL_EUSAGE, "--rule is about curves; bars have one rule, see dlens curves --help");
    if (form != FORM_PLOT && (a->title || a->w))
        return dl_fail(e, DL_EUSAGE, "%s is about the plot; give --out a name that ends in .png, .pdf or .svg",
                       a->title ? "--title" : "--size");
    for (int i = 0; form == FORM_CSV && i < a->n_files; i++)
        if (!strcmp(a->file[i], a->out))
            return dl_fail(e, DL_EUSAGE, "--out %s: is one of the files to read; give another name", a->out);
    return 0;
}

static void found_close(struct curves_found *f)
{
    for (int i = 0; i < f->n_files; i++) {
        if (f->curve) curves_close(&f->curve[i]);
        marks_close(&f->marks[i]);
    }
    marks_labels_close(&f->labels);
    free(f->curve);
    free(f->bars);
    free(f->group);
    free(f->marks);
}

static int curves(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct curves_args *a = user;
    enum form form = form_of(a->out);
    struct curves_found f = {.rule = a->rule, .threshold = a->threshold ? a->threshold : MARKS_THRESHOLD};
    if (check(a, form, e)) return -1;
    int rc = read_files(c, a, &f, e);
    if (!rc) rc = a->bars ? compute_bars(c, &f, e) : compute_curves(&f, e);
    if (!rc) rc = set_labels(a, &f.labels, e);
    if (!rc && form == FORM_PLOT) rc = curves_plot(&f, a->title, a->w, a->h, a->out, e);
    if (!rc && form == FORM_CSV) rc = curves_write_csv(&f, a->out, e);
    if (!rc) {
        curves_json(&f, c->result);
        if (a->out) json_object_set_new(c->result, "out", cli_string(a->out));
        if (a->out) snprintf(line, 4096, "%s", a->out);
        if (form == FORM_TABLE && !c->json) curves_print(&f);
    }
    found_close(&f);
    return rc;
}

int cmd_curves(int argc, char **argv)
{
    struct curves_args a = {0};
    return cli_main(argc, argv,
                    &(struct cli_main){.command = "curves",
                                       .help = help,
                                       .options = options,
                                       .no_dry_run = true,
                                       .max_files = FILES_MAX,
                                       .take = take,
                                       .run = curves},
                    &a);
}
