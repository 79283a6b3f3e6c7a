#include "lens/report.h"
#include "tools/gen.h"

#include <stdlib.h>

static const char help[] =
    "usage: dlens report DIR [options]\n"
    "\n"
    "Makes one HTML page of a sweep's folder, to look at, to send and to score pictures on: a slider over layers with\n"
    "all prompts side by side, and a table of all layers. The page is one file that loads nothing. Images that are\n"
    "still missing are shown as empty frames.\n"
    "\n"
    "  --out FILE         the page (report.html in the folder)\n"
    "  --prompts LIST     prompts by their numbers, from 0: 0:10, 3,1, -1, last (all)\n"
    "  --seeds S,S,...    seeds; a:b counts from a to b-1 (all)\n"
    "  --layers LIST      layers k, of those that the sweep has: 0:13:4, 12,6, all, last (all, in the sweep's order)\n"
    "  --cell PX          reduce larger pictures to PX on their longer side (full size; where the page would be "
    "larger\n"
    "                     than --max-size the largest of 512, 384, 256, 192, 128, 96 and 64 that fits)\n"
    "  --titles MODE      layer or block (as the sweep was asked for)\n"
    "  --max-size MIB     the largest page (64)\n"
    "  --json             one JSON object on stdout        --quiet       errors only\n";

enum { OUT = CLI_OWN, PROMPTS, SEEDS, LAYERS, CELL, TITLES, MAX_SIZE };
static const struct option options[] = {CLI_OPTIONS,
                                        {"out", required_argument, NULL, OUT},
                                        {"prompts", required_argument, NULL, PROMPTS},
                                        {"seeds", required_argument, NULL, SEEDS},
                                        {"layers", required_argument, NULL, LAYERS},
                                        {"cell", required_argument, NULL, CELL},
                                        {"titles", required_argument, NULL, TITLES},
                                        {"max-size", required_argument, NULL, MAX_SIZE},
                                        {0}};

struct report_args {
    const char *dir, *prompts, *layers;
    struct report_opts o;
    uint64_t seed[GEN_SEEDS_MAX];
};

static int take(void *user, int v, struct dl_err *e)
{
    static const char *const titles[] = {"layer", "block"};
    struct report_args *a = user;
    int64_t n = 0;
    int i;
    switch (v) {
    case CLI_FILE: a->dir = optarg; return 0;
    case OUT: a->o.out = optarg; return 0;
    case PROMPTS: a->prompts = optarg; return 0;
    case LAYERS: a->layers = optarg; return 0;
    case SEEDS:
        a->o.n_seeds = prompts_seeds("--seeds", optarg, a->seed, GEN_SEEDS_MAX, e);
        a->o.seed = a->seed;
        return a->o.n_seeds < 0 ? -1 : 0;
    case CELL:
        if (cli_int("--cell", optarg, REPORT_CELL_MIN, REPORT_CELL_MAX, &n, e) < 0) return -1;
        a->o.cell_px = (int)n;
        return 0;
    case MAX_SIZE:
        if (cli_int("--max-size", optarg, 1, 1 << 20, &n, e) < 0) return -1;
        a->o.max_bytes = n << 20;
        return 0;
    default:
        i = cli_choice("--titles", optarg, 2, titles, e);
        a->o.titles = i == 1 ? FIGURE_TITLES_BLOCK : FIGURE_TITLES_LAYER;
        return i < 0 ? -1 : 0;
    }
}

/* The layers that are asked for, of the sweep's own. */
static int pick_layers(struct range *r, const char *text, const struct manifest_doc *d, struct dl_err *e)
{
    int last = 0;
    for (int i = 0; i < d->n_layers; i++) last = d->layer[i] > last ? d->layer[i] : last;
    bool *has = calloc((size_t)last + 1, sizeof *has);
    if (!has) return dl_fail(e, DL_ENOMEM, "--layers: no memory");
    for (int i = 0; i < d->n_layers; i++) has[d->layer[i]] = true;
    int rc = range_pick(r, text, &(struct range_of){"--layers", "layer", "sweep", last + 1, has}, e);
    free(has);
    return rc;
}

static int make(struct cli *c, const struct report_args *a, const struct manifest_doc *d, char *line, struct dl_err *e)
{
    struct report_opts o = a->o;
    struct range prompts = {0}, layers = {0};
    int rc = 0;
    if (a->prompts && d->n_prompts)
        rc =
            range_pick(&prompts, a->prompts, &(struct range_of){"--prompts", "prompt", "sweep", d->n_prompts, NULL}, e);
    if (!rc && a->layers && d->n_layers) rc = pick_layers(&layers, a->layers, d, e);
    o.prompt = prompts.k, o.n_prompts = prompts.n;
    o.layer = layers.k, o.n_layers = layers.n;
    if (!rc) rc = gen_report(c, a->dir, d, &o, line, e);
    range_close(&prompts);
    range_close(&layers);
    return rc;
}

static int report(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct report_args *a = user;
    struct manifest_doc d;
    if (!a->dir) return dl_fail(e, DL_EUSAGE, "the folder of a sweep is needed");
    if (gen_read_folder(a->dir, &d, e) < 0) return -1;
    int rc = make(c, a, &d, line, e);
    manifest_doc_close(&d);
    return rc;
}

int cmd_report(int argc, char **argv)
{
    struct report_args a = {0};
    return cli_main(argc, argv,
                    &(struct cli_main){.command = "report",
                                       .help = help,
                                       .options = options,
                                       .no_dry_run = true,
                                       .max_files = 1,
                                       .take = take,
                                       .run = report},
                    &a);
}
