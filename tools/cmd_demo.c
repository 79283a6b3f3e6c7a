#include "lens/figure.h"
#include "tools/sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: dlens demo [--out DIR] [options]\n"
    "\n"
    "A real sweep over all layers of the small model that comes with dlens, for a few telling prompts. Nothing is\n"
    "downloaded. The model is 20 MB and was trained from scratch on drawn shapes: see tools/demo_model/README.md.\n"
    "\n"
    "  --out DIR          folder for images, figures and report.html, a page to look through them (dlens-demo)\n"
    "  --model DIR        another place of the demo model\n"
    "  --device NAME      cpu (what auto means), cuda, cuda:N     --threads N   CPU threads (all)\n"
    "  --json             one JSON object on stdout        --quiet       errors only\n";

static const struct option options[] = {
    CLI_OPTIONS, {"model", required_argument, NULL, GEN_MODEL}, {"out", required_argument, NULL, GEN_OUT}, {0}};

/* The model lies beside the source, or where it was installed. */
static int find_model(char out[4096], struct dl_err *e)
{
    static const char *const places[] = {DLENS_SOURCE_DIR "/tools/demo_model", DLENS_DATA_DIR "/demo_model"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(out, 4096, "%s/model/model_index.json", places[i]);
        if (access(out, R_OK) < 0) continue;
        snprintf(out, 4096, "%s", places[i]);
        return 0;
    }
    return dl_fail(e, DL_EINPUT, "the demo model is in neither %s nor %s; name its folder with --model", places[0],
                   places[1]);
}

/* The prompts and settings that go with the model: demo.json beside its folder. */
static int read_demo(const char *path, struct gen_args *a, struct prompts *ps, json_t **root, struct dl_err *e)
{
    json_error_t je;
    size_t i;
    json_t *prompts, *p;
    *root = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(*root)) return dl_fail(e, DL_EINPUT, "%s: %s", path, *root ? "no JSON object" : je.text);
    a->steps = json_integer_value(json_object_get(*root, "steps"));
    a->guidance = json_number_value(json_object_get(*root, "guidance"));
    a->seeds[0] = (uint64_t)json_integer_value(json_object_get(*root, "seed"));
    a->scheduler = json_string_value(json_object_get(*root, "scheduler"));
    prompts = json_object_get(*root, "prompts");
    if (a->steps < 1 || a->steps > 1000 || !json_array_size(prompts))
        return dl_fail(e, DL_EINPUT, "%s: \"prompts\" or \"steps\" is missing", path);
    json_array_foreach(prompts, i, p)
    {
        if (!json_is_string(p)) return dl_fail(e, DL_EINPUT, "%s: \"prompts\" holds something that is no string", path);
        if (prompts_add(ps, json_string_value(p), "", a->seeds, 1, e) < 0) return -1;
    }
    return 0;
}

static int demo(struct cli *c, void *user, char *line, struct dl_err *e)
{
    struct gen_args *a = user;
    char place[4096], path[4200], model[4200];
    json_t *root = NULL;
    struct prompts ps = {0};
    int rc = -1;
    if (a->model)
        snprintf(place, sizeof place, "%s", a->model);
    else if (find_model(place, e) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/demo.json", place);
    snprintf(model, sizeof model, "%s/model", place);
    a->model = model, a->layers = "all";
    a->title = "Demo model";
    if (!a->out) a->out = "dlens-demo";
    if (!a->dtype) a->dtype = "f32"; /* the same pictures on every machine */
    if (read_demo(path, a, &ps, &root, e) == 0) {
        cli_say(c, "dlens demo: %d prompts through every layer of the demo model, into %s", ps.n, a->out);
        rc = sweep_run(c, a, &ps, line, e);
    }
    if (rc == 0 && !c->dry_run) {
        char t[32];
        cli_say(c, figure_built() ? "done in %s; look at the figures in %s:" : "done in %s; the pictures are in %s/images",
                cli_duration(t, cli_seconds(c)), a->out);
        for (int i = 0; i < ps.n && figure_built(); i++)
            cli_say(c, "  grid_p%03d_s%llu.png  %s", i, (unsigned long long)a->seeds[0], ps.p[i].text);
    }
    json_decref(root);
    prompts_close(&ps);
    return rc;
}

static int take(void *user, int v, struct dl_err *e) { return gen_take(user, v, e); }

int cmd_demo(int argc, char **argv)
{
    struct gen_args a;
    gen_defaults(&a);
    return cli_main(argc, argv,
                    &(struct cli_main){.command = "demo", .help = help, .options = options, .take = take, .run = demo},
                    &a);
}
