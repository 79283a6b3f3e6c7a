#include "lens/figure.h"
#include "tools/gen.h"

static const char help[] =
    "usage: dlens figure DIR [options]\n"
    "\n"
    "Draws the grid of a sweep's folder: overall title, one titled cell for each layer; images that are still\n"
    "missing are shown as empty frames.\n"
    "\n"
    "  --out FILE         .png, .pdf or .svg (grid.png in the folder; with several prompts or seeds each\n"
    "                     gets its number in the name)\n"
    "  --columns N        cells in a row (the square root of their number)\n"
    "  --cell PX          side of a cell (256; 512 for large models)\n"
    "  --titles MODE      layer or block (as the sweep was asked for)\n"
    "  --json             one JSON object on stdout        --quiet       errors only\n";

enum { OUT = CLI_OWN, COLUMNS, CELL, TITLES };
static const struct option options[] = {CLI_OPTIONS,
                                        {"out", required_argument, NULL, OUT},
                                        {"columns", required_argument, NULL, COLUMNS},
                                        {"cell", required_argument, NULL, CELL},
                                        {"titles", required_argument, NULL, TITLES},
                                        {0}};

struct figure_args {
    const char *dir;
    struct figure_sweep o;
};

static int take(void *user, int v, struct dl_err *e)
{
    static const char *const titles[] = {"layer", "block"};
    struct figure_args *a = user;
    int64_t n = 0;
    int i;
    switch (v) {
    case CLI_FILE: a->dir = optarg; return 0;
    case OUT: a->o.out = optarg; return 0;
    case COLUMNS:
        if (cli_int("--columns", optarg, 1, 10000, &n, e) < 0) return -1;
        a->o.columns = (int)n;
        return 0;
    case CELL:
        if (cli_int("--cell", optarg, FIGURE_CELL_MIN, FIGURE_CELL_MAX, &n, e) < 0) return -1;
        a->o.cell_px = (int)n;
        return 0;
    default:
        i = cli_choice("--titles", optarg, 2, titles, e);
        a->o.titles = i == 1 ? FIGURE_TITLES_BLOCK : FIGURE_TITLES_LAYER;
        return i < 0 ? -1 : 0;
    }
}

static int figure(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct figure_args *a = user;
    struct manifest_doc d;
    struct gen_figures m = {.list = json_array(), .line = line};
    json_object_set_new(c->result, "figures", m.list);
    if (!a->dir) return dl_fail(e, DL_EUSAGE, "the folder of a sweep is needed");
    if (gen_read_folder(a->dir, &d, e) < 0) return -1;
    int rc = figure_sweep(a->dir, &d, &a->o, gen_figure_made, &m, e);
    manifest_doc_close(&d);
    return rc;
}

int cmd_figure(int argc, char **argv)
{
    struct figure_args a = {0};
    return cli_main(argc, argv,
                    &(struct cli_main){.command = "figure",
                                       .help = help,
                                       .options = options,
                                       .no_dry_run = true,
                                       .max_files = 1,
                                       .take = take,
                                       .run = figure},
                    &a);
}
