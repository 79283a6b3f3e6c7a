#include "tools/sweep.h"

#include <stdio.h>
#include <stdlib.h>

static const char help_head[] =
    "usage: dlens sweep --model DIR (--prompt TEXT | --prompts FILE) --out DIR [options]\n"
    "\n"
    "One image for each layer of the text encoder: the encoder runs once, every hidden state is kept, and the\n"
    "diffusion loop is replayed with each. Ends with the path of the figure.\n"
    "\n"
    "  --model DIR        folder in diffusers layout, or a hub id that lies in the local Hugging Face cache\n"
    "  --prompt TEXT      the prompt\n"
    "  --prompts FILE     one prompt a line, or JSON lines {\"prompt\": ..., \"seed\": ..., \"negative\": ...}\n"
    "  --negative TEXT    negative prompt, encoded in the ordinary way (empty)\n"
    "  --text hf5|hf4     text cleaning of transformers 5 (default) or 4 with ftfy, as in the tutorial\n"
    "  --clean-caption on|off   DeepFloyd IF's cleaning of prompts (on)\n"
    "  --preset NAME      published settings, which other options override: tutorial-sd15, tutorial-if,\n"
    "                     tutorial-sdxl, tutorial-flux or paper-sd21\n"
    "\n";

static const struct option options[] = {CLI_OPTIONS, GEN_COMMON_OPTIONS, GEN_TEXT_OPTIONS, {0}};

struct sweep {
    struct cli *cli;
    struct pipe *pipe;
    struct lens_job *job;
    const volatile sig_atomic_t *stop;
};

/* Tells what was cut off a prompt. */
static int seen(void *user, int i, const char *text, const struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    struct sweep *s = user;
    (void)text, (void)e;
    gen_warn_cut(s->cli, i, st);
    return 0;
}

static int encode(void *user, int first, int n, struct lens_conds *c, struct dl_err *e)
{
    struct sweep *s = user;
    struct lens_text t = {.prompt = s->job->prompt + first,
                          .n_prompts = n,
                          .first = first,
                          .k = s->job->k,
                          .n_layers = s->job->n_layers,
                          .lens = s->job->lens,
                          .guided = lens_guided(s->pipe, s->job),
                          .seen = seen,
                          .user = s,
                          .stop = s->stop};
    return lens_encode(s->pipe, &t, c, e);
}

int sweep_run(struct cli *c, const struct gen_args *a, const struct prompts *ps, char *line, struct dl_err *e)
{
    struct gen_model m = {0};
    struct range r = {0};
    struct lens_job job;
    struct pipe_plan plan;
    int rc = -1;
    if (!a->out && !c->dry_run)
        return dl_fail(e, DL_EUSAGE, "--out DIR is needed: the folder for images, manifest and figure");
    if (gen_open(c, a, &m, e) < 0 || gen_job(a, &m, ps, &r, &job, e) < 0 || lens_plan(m.pipe, &job, &plan, e) < 0)
        goto done;
    for (int i = 0; i < ps->n; i++)
        if (!lens_guided(m.pipe, &job) && ps->p[i].negative && *ps->p[i].negative) {
            dl_fail(e, DL_EUSAGE, "prompt %d: a negative prompt has no effect %s", i,
                    m.pipe->embedded_guidance ? "on this model" : "without guidance: --guidance must be above 1");
            goto done;
        }
    gen_tell_plan(c, &job, &plan, NULL);
    rc = 0;
    if (c->dry_run) goto done;
    struct sweep s = {.cli = c, .pipe = m.pipe, .job = &job, .stop = cli_catch_interrupt()};
    struct gen_run g = {
        .cli = c, .args = a, .pipe = m.pipe, .job = &job, .plan = &plan, .source = {encode, &s}, .stop = s.stop};
    rc = gen_run(&g, line, e);
done:
    range_close(&r);
    gen_close(&m);
    return rc;
}

static int sweep(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct gen_args *a = user;
    struct prompts ps = {0};
    int rc = gen_prompts(a, &ps, e);
    if (rc == 0) rc = sweep_run(c, a, &ps, line, e);
    prompts_close(&ps);
    return rc;
}

static int take(void *user, int v, struct dl_err *e) { return gen_take(user, v, e); }

int cmd_sweep(int argc, char **argv)
{
    struct gen_args a;
    char help[8192];
    snprintf(help, sizeof help, "%s%s", help_head, gen_help);
    gen_defaults(&a);
    gen_preset_first(&a, argc, argv, options);
    return cli_main(
        argc, argv,
        &(struct cli_main){.command = "sweep", .help = help, .options = options, .take = take, .run = sweep}, &a);
}
